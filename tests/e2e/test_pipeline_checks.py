"""Validation and testing stages on a real stack: real model servers, the real gateway, real past requests."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pytest

from harness import models, oip
from harness.waiting import eventually
from phantom_ml_studio import DeploymentPipeline, Environments, TestSuites
from phantom_ml_studio.pipeline_values import Execution

if TYPE_CHECKING:
    from conftest import Studio
    from harness.people import People

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def pipelines(people: People) -> DeploymentPipeline:
    """The engineer's."""
    return DeploymentPipeline(people.engineer.client)


@pytest.fixture(scope="module")
def environment(people: People, run_id: str) -> str:
    """Where nothing is deployed yet."""
    name = f"checks-{run_id}"
    Environments(people.admin.client).create(name)
    return name


@pytest.fixture(scope="module")
def dataset(studio: Studio, run_id: str) -> str:
    """300 rows with what was true of them, registered by path."""
    features, labels = models.data(77)
    path = studio.stack.datasets / f"held-out-{run_id}.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["amount", "hour", "was_high"])
        lines.writerows([*map(float, row), bool(label)] for row, label in zip(features, labels, strict=True))
    studio.registry.register_dataset(f"held-out-{run_id}", "1", path)
    return f"held-out-{run_id}"


@pytest.fixture(scope="module")
def model(studio: Studio, run_id: str, dataset: str) -> str:
    """With versions 1.0.0 and 1.1.0 as good as each other, and 1.2.0 that answers the other way round."""
    name = f"checked-{run_id}"
    studio.registry.register_model(
        name, models.xgboost_file(studio.file("checked-1.json"), 1), schema=models.SCHEMA
    )
    studio.registry.create_version(name, "1.1.0", models.xgboost_file(studio.file("checked-2.ubj"), 2))
    wrong = {**models.SCHEMA, "class_labels": ["high", "low"]}
    studio.registry.create_version(
        name, "1.2.0", models.xgboost_file(studio.file("checked-3.ubj"), 3), schema=wrong
    )
    for version in ("1.0.0", "1.1.0"):
        lineage = {
            "source_data": [{"dataset": dataset, "version": "1", "hash": "", "role": "evaluation"}],
            "dependencies": {"python": "3.11.9", "xgboost": "3.2.0"},
        }
        studio.registry.create_lineage(name, lineage, version)
    return name


def line(pipelines: DeploymentPipeline, name: str, *stages: dict[str, Any]) -> str:
    made = pipelines.create(name)
    for stage in stages:
        pipelines.add_stage(made.id, stage)
    return made.id


def executed(pipelines: DeploymentPipeline, pipeline: str, model: str, version: str) -> Execution:
    return pipelines.wait(pipelines.execute(pipeline, model, version).id, 120)


def test_a_version_is_validated_deployed_and_tested_by_itself(
    pipelines: DeploymentPipeline,
    people: People,
    environment: str,
    model: str,
    dataset: str,
    run_id: str,
    door: oip.Door,
) -> None:
    suites = TestSuites(people.engineer.client)
    suites.create(f"integration-{run_id}_tests", dataset, max_cases=100)
    validation = {
        "name": "validate",
        "type": "validation",
        "config": {
            "performance_checks": {"min_accuracy": 0.85, "max_latency": 500, "min_throughput": 10},
            "security_scan": True,
            "dependency_check": True,
        },
    }
    deployment = {
        "name": "deploy",
        "type": "deployment",
        "config": {"environment": environment, "rollback_window": 0, "health_check_timeout": 120},
    }
    testing = {
        "name": "test",
        "type": "testing",
        "config": {
            "test_suite": f"integration-{run_id}",
            "success_criteria": {"test_pass_rate": 0.9, "performance_degradation": 2},
        },
    }
    pipeline = line(pipelines, f"whole-{run_id}", validation, deployment, testing)
    first = executed(pipelines, pipeline, model, "1.0.0")
    assert first.phase == "succeeded", first.reason
    checks = first.stages[0].result
    assert checks["accuracy"]["rows"] == 400
    assert checks["throughput"]["requests_per_s"] > 10
    assert checks["checks"] == dict.fromkeys(
        ["security_scan", "dependency_check", "accuracy", "latency", "throughput"], "pass"
    )
    suite = first.stages[2].result["suite"]
    assert (suite["cases"], suite["model_version"]) == (100, "1.0.0")
    assert first.stages[2].result["performance"]["verdict"] == "not_assessed"
    where = first.stages[2].result["endpoint"]
    second = executed(pipelines, pipeline, model, "1.1.0")
    assert second.phase == "succeeded", second.reason
    assert second.stages[2].result["performance"]["compared_with"] == "1.0.0"
    tested = suites.run(f"integration-{run_id}", environment, min_pass_rate=0.9)
    assert tested.passed
    assert [(each.endpoint, each.model_version, each.cases) for each in tested.runs] == [
        (where, "1.1.0", 100)
    ]
    for n in range(80):
        door.infer(oip.request(where, {"amount": [n / 80], "hour": [0.5]}, id=f"past-{run_id}-{n}"))
    _replay(pipelines, model, where, run_id)


def _replay(pipelines: DeploymentPipeline, model: str, where: str, run_id: str) -> None:
    """What was asked just now, through a version that answers the other way round; no test case is among it."""
    replay = {"replay": {"requests": 200, "endpoint": where, "max_disagreement": 0.3}}
    pipeline = line(pipelines, f"replay-{run_id}", {"name": "replay", "type": "validation", "config": replay})

    def seen() -> Execution | None:
        found = executed(pipelines, pipeline, model, "1.2.0")
        return found if found.stages[0].result["replay"]["requests"] == 80 else None

    bad = eventually(seen, "80 past requests in the topic", 30)
    assert (bad.phase, bad.stages[0].reason_code) == ("failed", "replay_failed")
    assert bad.stages[0].result["replay"]["disagreement"] == 1
    assert executed(pipelines, pipeline, model, "1.1.0").phase == "succeeded"


def test_a_version_that_is_wrong_does_not_get_past_its_validation(
    pipelines: DeploymentPipeline, model: str, dataset: str, run_id: str
) -> None:
    config = {"performance_checks": {"min_accuracy": 0.85}, "dataset": dataset}
    pipeline = line(
        pipelines, f"wrong-{run_id}", {"name": "validate", "type": "validation", "config": config}
    )
    found = executed(pipelines, pipeline, model, "1.2.0")
    assert (found.phase, found.stages[0].reason_code) == ("failed", "accuracy_failed")
    assert found.stages[0].result["accuracy"]["upper"] < 0.3
