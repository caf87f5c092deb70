"""A version's way through a pipeline of a real stack: deployed for the first time, rolled out, approved, cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness import models
from harness.waiting import eventually
from phantom_ml_studio import DeploymentPipeline, Environments
from phantom_ml_studio.errors import Forbidden, Refused

if TYPE_CHECKING:
    from conftest import Studio
    from harness.people import People

pytestmark = pytest.mark.timeout(240)

# Nobody calls these endpoints, so nothing is compared, and the old revision need not stay warm for evidence.
QUICKLY = {"rollback_window": 0, "health_check_timeout": 120}


@pytest.fixture(scope="module")
def pipelines(people: People) -> DeploymentPipeline:
    """The engineer's."""
    return DeploymentPipeline(people.engineer.client)


@pytest.fixture(scope="module")
def environment(people: People, run_id: str) -> str:
    """Where nothing is deployed yet."""
    name = f"staging-{run_id}"
    Environments(people.admin.client).create(name)
    return name


@pytest.fixture(scope="module")
def model(studio: Studio, run_id: str) -> str:
    """With versions 1.0.0 and 1.1.0, deployed nowhere."""
    name = f"piped-{run_id}"
    for number, seed in (("1.0.0", 1), ("1.1.0", 2)):
        path = models.xgboost_file(studio.file(f"{name}-{seed}.json"), seed)
        if seed == 1:
            studio.registry.register_model(name, path, schema=models.SCHEMA)
        else:
            studio.registry.create_version(name, number, path)
    return name


def line(pipelines: DeploymentPipeline, name: str, environment: str, **config: Any) -> str:
    """The id of a pipeline that deploys."""
    made = pipelines.create(name)
    stage = {
        "name": "deploy",
        "type": "deployment",
        "config": {"environment": environment, **QUICKLY, **config},
    }
    pipelines.add_stage(made.id, stage)
    return made.id


def test_a_pipeline_deploys_what_is_new_and_rolls_out_what_is_newer(
    pipelines: DeploymentPipeline, studio: Studio, environment: str, model: str, run_id: str
) -> None:
    pipeline = line(pipelines, f"blue-green-{run_id}", environment, strategy="blue_green")
    for version, before in (("1.0.0", ""), ("1.1.0", "1.0.0"), ("1.1.0", "1.1.0")):
        execution = pipelines.wait(pipelines.execute(pipeline, model, version).id, 100)
        assert execution.phase == "succeeded", execution.reason
        (stage,) = execution.stages
        assert (stage.result["served_before"], stage.result["version"]) == (before, version)
        assert (stage.attempts, execution.progress) == (1, 100)
        deployed = studio.deployments.get(stage.result["deployment_id"])
        assert deployed.stable.model_version == version
    assert len(pipelines.list_executions(pipeline)) == 3


def test_a_canary_waits_for_an_approval_and_is_rolled_back_when_the_execution_is_cancelled(
    pipelines: DeploymentPipeline, studio: Studio, people: People, environment: str, model: str, run_id: str
) -> None:
    first = line(pipelines, f"first-{run_id}", environment)
    deployed = pipelines.wait(pipelines.execute(first, model, "1.1.0").id, 100)
    where = deployed.stages[0].result["deployment_id"]
    pipeline = line(
        pipelines,
        f"canary-{run_id}",
        environment,
        strategy="canary",
        canary_percentage=5,
        canary_duration=3600,
        approval_required=True,
        approvers=[people.reviewer.name],
    )
    execution = pipelines.execute(pipeline, model, "1.0.0", trigger="automated")
    assert (execution.phase, execution.trigger) == ("waiting_for_approval", "automated")
    with pytest.raises(Forbidden) as own:
        pipelines.approve(execution.id)
    assert own.value.code == "requester_cannot_approve"
    theirs = DeploymentPipeline(people.reviewer.client)
    theirs.approve(execution.id, comment="go")
    with pytest.raises(Refused) as twice:
        theirs.approve(execution.id)
    assert people.reviewer.name in str(twice.value)
    eventually(lambda: studio.deployments.get(where).candidate_percent == 5, "a canary at 5 %", 90)
    pipelines.cancel(execution.id, "changed our minds")
    ended = pipelines.wait(execution.id, 60)
    assert (ended.phase, ended.stages[0].phase) == ("cancelled", "cancelled"), ended.stages[0].reason
    assert "changed our minds" in ended.reason
    now = studio.deployments.get(where)
    assert (now.stable.model_version, now.candidate_percent) == ("1.1.0", 0)


def test_what_is_not_there_is_refused_before_anything_begins(
    pipelines: DeploymentPipeline, model: str, run_id: str
) -> None:
    pipeline = line(pipelines, f"nowhere-{run_id}", "nowhere")
    with pytest.raises(Refused) as caught:
        pipelines.execute(pipeline, model)
    assert caught.value.code == "environment_not_found"
    assert pipelines.list_executions(pipeline) == []
