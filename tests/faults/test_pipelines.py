"""The control process is killed at every transition of an execution, and in the middle of taking one back."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from faults.conftest import MODEL, NEW, OLD, Bench
from harness.kafka import headers_of, wait_for
from harness.waiting import eventually
from phantom_contracts import topics
from phantom_ml_studio import DeploymentPipeline, Environments
from phantom_ml_studio.errors import PhantomError
from phantom_ml_studio.pipeline_values import Execution

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.fixture
def environment(bench: Bench) -> str:
    """Where nothing is deployed yet."""
    name = f"piped-{secrets.token_hex(2)}"
    Environments(bench.people.admin.client).create(name)
    return name


def test_killed_at_every_transition_each_stage_has_its_effect_once(bench: Bench, environment: str) -> None:
    ours, theirs = (DeploymentPipeline(p.client) for p in (bench.people.engineer, bench.people.reviewer))
    pipeline = ours.create(f"line-{environment}").id
    where = f"piped-{secrets.token_hex(2)}"
    deploy = {"environment": environment, "deployment_id": where, "rollback_window": 0}
    ours.add_stage(pipeline, {"name": "first", "type": "deployment", "config": deploy})
    ours.add_stage(pipeline, {"name": "gate", "type": "approval", "config": {}})
    ours.add_stage(pipeline, {"name": "again", "type": "deployment", "config": deploy})
    execution = ours.execute(pipeline, MODEL, OLD)
    seen: list[tuple[str, ...]] = []
    while True:
        execution = eventually(
            lambda: _moved(ours, execution.id, seen),  # noqa: B023 - asked at once
            f"a change of {seen[-1:]}",
            120,
        )
        seen.append(_state(execution))
        if execution.ended_at:
            break
        pid = bench.site.kill("control")
        bench.site.await_back("control", pid)
        if execution.phase == "waiting_for_approval":
            theirs.approve(execution.id)
            seen.append(_state(execution))
    assert execution.phase == "succeeded", execution.reason
    assert [each.phase for each in execution.stages] == ["succeeded"] * 3
    deployed = bench.deployments.get(where)
    assert deployed.stable is not None
    # The first stage deployed one revision, however often it was begun; the last one found it there.
    assert (deployed.stable.revision, deployed.stable.model_version) == (f"{where}.1", OLD)
    assert execution.stages[2].result["served_before"] == OLD
    _assert_each_change_is_told_once(bench, execution)
    bench.deployments.delete(where)


def test_killed_while_it_cancels_the_canary_is_rolled_back_all_the_same(bench: Bench) -> None:
    ours = DeploymentPipeline(bench.people.engineer.client)
    where = f"piped-{secrets.token_hex(2)}"
    bench.deployments.deploy(MODEL, OLD, deployment_id=where)
    bench.deployments.wait_ready(where)
    pipeline = ours.create(f"canary-{where}").id
    config = {
        "environment": "production",
        "deployment_id": where,
        "strategy": "canary",
        "canary_percentage": 10,
        "canary_duration": 3600,
    }
    ours.add_stage(pipeline, {"name": "canary", "type": "deployment", "config": config})
    execution = ours.execute(pipeline, MODEL, NEW)
    eventually(lambda: bench.deployments.get(where).candidate_percent == 10, "a canary at 10 %", 90)
    ours.cancel(execution.id)
    pid = bench.site.kill("control")
    bench.site.await_back("control", pid)
    ended = ours.wait(execution.id, 90)
    assert (ended.phase, ended.stages[0].phase) == ("cancelled", "cancelled"), ended.stages[0].reason
    now = bench.deployments.get(where)
    assert now.stable is not None
    assert (now.stable.model_version, now.candidate_percent) == (OLD, 0)
    bench.deployments.delete(where)


def _state(execution: Execution) -> tuple[str, ...]:
    return (execution.phase, *(each.phase for each in execution.stages))


def _moved(pipelines: DeploymentPipeline, execution_id: str, seen: list[tuple[str, ...]]) -> Execution | None:
    """None while nobody answers, or while it stands where it was seen last."""
    try:
        found = pipelines.get_execution_status(execution_id)
    except PhantomError:
        return None
    return found if _state(found) not in seen else None


def _assert_each_change_is_told_once(bench: Bench, execution: Execution) -> None:
    def told(records: list[Any]) -> dict[int, tuple[str, str, str, str]]:
        """Number of the event → what it tells; a relay may repeat one."""
        found = {}
        for record in records:
            event = json.loads(record.value)
            if event["execution_id"] == execution.id:
                number = int(headers_of(record)["ce_aggregateversion"])
                kind = headers_of(record)["ce_type"].split(".")[2]
                change = (event.get("from_phase", ""), event.get("to_phase", event.get("decision", "")))
                found[number] = (kind, event.get("stage", ""), *change)
        return found

    def has_ended(records: list[Any]) -> bool:
        return any(change[3] == "succeeded" and not change[1] for change in told(records).values())

    is_enough: Callable[[list[Any]], bool] = has_ended
    records = asyncio.run(wait_for(bench.site.stack.kafka, topics.PIPELINE_EVENTS, is_enough))
    changes = told(records)
    assert sorted(changes) == list(range(1, len(changes) + 1))
    assert len(set(changes.values())) == len(changes)
    assert [(stage, to) for kind, stage, _, to in changes.values() if kind == "StagePhaseChanged"] == [
        ("first", "running"),
        ("first", "succeeded"),
        ("gate", "waiting_for_approval"),
        ("gate", "succeeded"),
        ("again", "running"),
        ("again", "succeeded"),
    ]
