"""What is away for long ends a stage; a runner that is cancelled by nobody does not spin."""

from __future__ import annotations

import asyncio

import pytest

from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines.patience import Outage, Patience
from phantom_pipelines.runners.runner import StageContext, StageResult
from phantom_pipelines.tests.conftest import Running, executed, made, stage
from phantom_platform.errors import Unavailable


def test_attempts_and_time_are_limited_and_a_finished_check_begins_anew() -> None:
    outage = Outage(Patience(attempts=3, within_s=100))
    assert [outage.add(0, 0), outage.add(1, 0)] == ["", ""]
    assert outage.add(2, 0) == "given up after 3 attempts in 2 s"
    outage.over()
    assert outage.add(10, 0) == ""
    assert outage.add(110, 0) == "given up after 2 attempts in 100 s"
    outage.over()
    assert [outage.add(second, checks) for second, checks in ((0, 0), (99, 1), (150, 2), (198, 2))] == [
        ""
    ] * 4
    assert outage.add(199, 2) == "given up after 3 attempts in 49 s"


def test_pauses_grow_until_the_outage_is_over() -> None:
    outage = Outage(Patience())
    assert [outage.pause_s() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    outage.over()
    assert outage.pause_s() == 1


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_a_stage_whose_need_stays_away_fails_with_the_last_reason_and_says_once_that_it_waits(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def away(stage: StageContext) -> StageResult:
        raise Unavailable(f"the registry is away, {stage.facts.attempt}", code="registry_unavailable")

    pipelines.script.plays["first"] = away
    execution_id = await executed(ada, await made(ada, stage("first")))
    await pipelines.start_executor(patience=Patience(attempts=3))
    first = (await pipelines.reaches(ada, execution_id, "failed")).stages[0]
    assert (first.reason_code, first.attempts) == ("registry_unavailable", 3)
    assert first.reason.startswith("the registry is away, 3; given up after 3 attempts in ")
    assert [line.text for line in first.logs] == ["goes on later: the registry is away, 1", first.reason]


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_a_runner_that_is_cancelled_by_nobody_counts_as_an_attempt(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def stray(stage: StageContext) -> StageResult:
        raise asyncio.CancelledError

    pipelines.script.plays["first"] = stray
    execution_id = await executed(ada, await made(ada, stage("first")))
    await pipelines.start_executor(patience=Patience(attempts=2))
    first = (await pipelines.reaches(ada, execution_id, "failed")).stages[0]
    assert (first.reason_code, first.attempts) == ("stage_cancelled_itself", 2)
    assert pipelines.script.ran == ["first", "first"]
