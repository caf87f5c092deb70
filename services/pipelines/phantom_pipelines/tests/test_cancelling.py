"""Cancelling: in every phase, once, and what had begun is taken back."""

from __future__ import annotations

import asyncio

import pytest

from phantom.pipelines.v1 import pipeline_pb2
from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines.runners.runner import StageContext, StageResult
from phantom_pipelines.tests.conftest import Running, executed, made, refused, stage
from phantom_pipelines.tests.fakes import for_ever, succeed
from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.testing.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


async def cancel(stub: PipelineServiceStub, execution_id: str, reason: str = "") -> pipeline_pb2.Execution:
    request = pb.CancelExecutionRequest(execution_id=execution_id, reason=reason)
    return (await stub.CancelExecution(request)).execution


async def begun(pipelines: Running, stub: PipelineServiceStub) -> str:
    """The id of an execution whose first of two stages runs."""
    await pipelines.start_executor()
    execution_id = await executed(stub, await made(stub, stage("first"), stage("second")))
    await asyncio.wait_for(pipelines.script.event("first").wait(), 10)
    return execution_id


async def test_a_running_stage_is_interrupted_and_taken_back(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    pipelines.script.plays["first"] = for_ever
    execution_id = await begun(pipelines, ada)
    assert (await cancel(ada, execution_id, "wrong version")).phase == "cancelling"
    done = await pipelines.reaches(ada, execution_id, "cancelled")
    assert pipelines.script.undone == ["first"]
    assert (done.reason_code, done.reason) == ("cancelled", "cancelled by ada: wrong version")
    assert [(each.phase, each.reason) for each in done.stages] == [
        ("cancelled", "taken back"),
        ("skipped", ""),
    ]
    assert done.HasField("ended_at")
    phases = [each["to_phase"] for each in await pipelines.events("ExecutionPhaseChanged")]
    assert phases == ["running", "cancelling", "cancelled"]


async def test_cancelling_twice_is_like_once_and_what_has_ended_is_refused(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    hold = asyncio.Event()

    async def slowly(context: StageContext) -> str:
        await hold.wait()
        return "at last"

    pipelines.script.plays["first"] = for_ever
    pipelines.script.undoing["first"] = slowly
    execution_id = await begun(pipelines, ada)
    await cancel(ada, execution_id)
    assert (await cancel(ada, execution_id)).phase == "cancelling"
    hold.set()
    await pipelines.reaches(ada, execution_id, "cancelled")
    await refused("execution_ended", cancel(ada, execution_id))


async def test_what_nobody_has_begun_is_cancelled_at_once(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    gate = stage("gate", "approval")
    execution_id = await executed(ada, await made(ada, gate, stage("second")))
    found = await cancel(bob, execution_id)
    assert (found.phase, found.reason) == ("cancelled", "cancelled by bob")
    assert [each.phase for each in found.stages] == ["cancelled", "skipped"]


async def test_a_stage_that_is_marked_running_but_that_nobody_runs_is_taken_back_too(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    execution_id = await executed(ada, await made(ada, stage("first")))
    assert (await cancel(ada, execution_id)).phase == "cancelling"
    await pipelines.start_executor()
    await pipelines.reaches(ada, execution_id, "cancelled")
    assert (pipelines.script.ran, pipelines.script.undone) == ([], ["first"])


async def test_a_stage_that_ended_before_it_heard_stays_as_it_ended(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def finishes_anyway(context: StageContext) -> StageResult:
        try:
            await for_ever(context)
        except asyncio.CancelledError:
            return await succeed(context)
        raise AssertionError

    pipelines.script.plays["first"] = finishes_anyway
    execution_id = await begun(pipelines, ada)
    await cancel(ada, execution_id)
    done = await pipelines.reaches(ada, execution_id, "cancelled")
    assert [each.phase for each in done.stages] == ["succeeded", "skipped"]
    assert pipelines.script.undone == []


async def test_a_runner_that_breaks_while_it_is_interrupted_is_taken_back_all_the_same(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def breaks(context: StageContext) -> StageResult:
        try:
            return await for_ever(context)
        finally:
            raise ZeroDivisionError

    pipelines.script.plays["first"] = breaks
    execution_id = await begun(pipelines, ada)
    await cancel(ada, execution_id)
    done = await pipelines.reaches(ada, execution_id, "cancelled")
    assert (done.stages[0].phase, pipelines.script.undone) == ("cancelled", ["first"])


async def test_taking_back_is_repeated_until_it_is_done(pipelines: Running, ada: PipelineServiceStub) -> None:
    tries = 0

    async def at_the_second(context: StageContext) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("the deployer is away")
        return "rolled back"

    pipelines.script.plays["first"] = for_ever
    pipelines.script.undoing["first"] = at_the_second
    execution_id = await begun(pipelines, ada)
    await cancel(ada, execution_id)
    done = await pipelines.reaches(ada, execution_id, "cancelled")
    assert done.stages[0].reason == "rolled back"


async def test_what_cannot_be_taken_back_is_said(pipelines: Running, ada: PipelineServiceStub) -> None:
    async def never(context: StageContext) -> str:
        raise PhantomError("the deployment is gone")

    pipelines.script.plays["first"] = for_ever
    pipelines.script.undoing["first"] = never
    execution_id = await begun(pipelines, ada)
    await cancel(ada, execution_id)
    done = await pipelines.reaches(ada, execution_id, "cancelled")
    assert done.stages[0].reason == "could not be taken back: the deployment is gone"


async def test_an_execution_that_pauses_before_it_tries_again_hears_of_it_at_once(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def away(context: StageContext) -> StageResult:
        raise Unavailable("the registry is away")

    pipelines.script.plays["first"] = away
    execution_id = await begun(pipelines, ada)

    async def paused_for_long() -> bool:
        return (await pipelines.execution(ada, execution_id)).stages[0].attempts == 3

    await until(paused_for_long)
    await cancel(ada, execution_id)
    await pipelines.reaches(ada, execution_id, "cancelled", within_s=3)
