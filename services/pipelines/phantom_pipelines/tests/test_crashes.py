"""The executor's crash matrix: killed before and after each of its commits, between and inside stages.

A death is an exception that nothing in the executor catches, thrown where the process would die; then another process
takes over. After it each check has run once (or is run again only where its own commit never happened), each stage has
ended once, and the outbox tells each transition once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines.domain.values import Attempt
from phantom_pipelines.runners.runner import StageContext, StageResult
from phantom_pipelines.service import Progression
from phantom_pipelines.service.progression import Ending
from phantom_pipelines.tests.conftest import Running, executed, made, stage
from phantom_pipelines.tests.fakes import Counted, for_ever
from phantom_platform.errors import Conflict
from phantom_platform.testing.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

METHODS = ("step", "keep_check", "add_line", "set_progress", "finish", "undone")


class Dying(Progression):
    """Kills the executor before or after the `nth` call of one of its commits; dead, it commits nothing any more."""

    def __init__(self, pipelines: Running, method: str, nth: int, when: str) -> None:
        super().__init__(pipelines.store)
        self.died = asyncio.Event()
        self._left = nth
        for name in METHODS:
            inner: Callable[..., Any] = getattr(super(), name)
            setattr(self, name, self._dying(inner, name == method, when))

    def _dying(self, inner: Callable[..., Any], is_the_one: bool, when: str) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            if self.died.is_set():
                await asyncio.Event().wait()
            if is_the_one:
                self._left -= 1
            is_now = is_the_one and self._left == 0
            if is_now and when == "before":
                self.died.set()
                await asyncio.Event().wait()
            answer = await inner(*args)
            if is_now:
                self.died.set()
                await asyncio.Event().wait()
            return answer

        return call


async def killed_at(pipelines: Running, method: str, nth: int, when: str) -> None:
    """Until the executor that dies there is dead, its lease with it."""
    dying = Dying(pipelines, method, nth, when)
    task = await pipelines.start_executor(progression=dying)
    await asyncio.wait_for(dying.died.wait(), 15)
    pipelines.executors.remove(task)
    await task.stop()


# Two stages of two checks and a line each: 2 steps + 1 that finds the end, 4 checks, 4 + 2 lines, 2 endings.
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("method", "nth"),
    [
        *(("step", n) for n in (1, 2, 3)),
        *(("keep_check", n) for n in (1, 2, 3, 4)),
        *(("add_line", n) for n in (1, 3, 6)),
        *(("finish", n) for n in (1, 2)),
    ],
)
async def test_killed_anywhere_the_next_process_goes_on(
    pipelines: Running, ada: PipelineServiceStub, method: str, nth: int, when: str
) -> None:
    plays = {name: Counted("one", "two") for name in ("first", "second")}
    pipelines.script.plays.update(plays)
    execution_id = await executed(ada, await made(ada, stage("first"), stage("second")))
    await killed_at(pipelines, method, nth, when)
    await pipelines.start_executor()
    done = await pipelines.reaches(ada, execution_id, "succeeded")
    counts = [count for play in plays.values() for count in play.counts.values()]
    # Only a check whose answer was never kept is run again.
    lost = 1 if (method, when) == ("keep_check", "before") else 0
    assert (sorted(counts), sum(counts)) == ([1] * (4 - lost) + [2] * lost, 4 + lost)
    for each in done.stages:
        texts = [line.text for line in each.logs if line.text != "2 checks"]
        assert texts == ["one is finished", "two is finished"]
        assert each.result["one"]["number"] == 1 or lost
    seen = [
        (each.get("stage", ""), each["from_phase"], each["to_phase"]) for each in await pipelines.events()
    ]
    assert len(seen) == len(set(seen)) == 6


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["step", "undone"])
async def test_killed_while_it_cancels_the_next_process_takes_back_what_ran(
    pipelines: Running, ada: PipelineServiceStub, method: str, when: str
) -> None:
    pipelines.script.plays["first"] = for_ever
    execution_id = await executed(ada, await made(ada, stage("first"), stage("second")))
    await ada.CancelExecution(pb.CancelExecutionRequest(execution_id=execution_id))
    await killed_at(pipelines, method, 1, when)
    await pipelines.start_executor()
    done = await pipelines.reaches(ada, execution_id, "cancelled")
    assert [each.phase for each in done.stages] == ["cancelled", "skipped"]
    assert set(pipelines.script.undone) == {"first"}
    assert len(await pipelines.events("ExecutionPhaseChanged")) == 3


async def test_a_stage_that_has_ended_is_never_run_again(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    pipelines.script.plays["second"] = for_ever
    execution_id = await executed(ada, await made(ada, stage("first"), stage("second")))
    for _ in range(3):
        await pipelines.start_executor()
        await asyncio.wait_for(pipelines.script.event("second").wait(), 10)
        await pipelines.stop_executors()
        pipelines.script.event("second").clear()
    assert pipelines.script.ran == ["first", "second", "second", "second"]
    assert (await pipelines.execution(ada, execution_id)).stages[1].attempts == 3


async def test_an_attempt_that_was_taken_over_writes_nothing_any_more(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    """A process that lost its lease without noticing."""
    execution_id = await executed(ada, await made(ada, stage("first")))
    progression = Progression(pipelines.store)
    old = await progression.step("default", execution_id)
    new = await progression.step("default", execution_id)
    assert old is not None
    assert new is not None
    assert (old.attempt.number, new.attempt.number) == (1, 2)
    with pytest.raises(Conflict, match="is over"):
        await progression.keep_check(old.attempt, "scan", {})
    with pytest.raises(Conflict, match="is over"):
        await progression.finish(old.attempt, Ending(True, "", "", {}))
    with pytest.raises(Conflict, match="is over"):
        await progression.undone(old.attempt, "no")
    await progression.add_line(old.attempt, "from the grave", "info", "")
    await progression.set_progress(old.attempt, 0.9)
    await progression.keep_check(new.attempt, "scan", {"by": 2})
    await progression.finish(new.attempt, Ending(True, "", "", {}))
    found = await pipelines.execution(ada, execution_id)
    assert (found.phase, len(found.stages[0].logs)) == ("succeeded", 0)


async def test_two_processes_share_executions_and_never_a_stage(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    running: list[Attempt] = []
    most = 0

    async def counted(context: StageContext) -> StageResult:
        nonlocal most
        running.append(Attempt("", context.facts.execution_id, "", 0))
        most = max(most, running.count(running[-1]))
        await asyncio.sleep(0.05)
        running.remove(Attempt("", context.facts.execution_id, "", 0))
        return StageResult(True)

    pipelines.script.plays["first"] = counted
    pipeline_id = await made(ada, stage("first"))
    ids = [await executed(ada, pipeline_id) for _ in range(6)]
    await pipelines.start_executor()
    await pipelines.start_executor()
    for each in ids:
        assert (await pipelines.reaches(ada, each, "succeeded")).stages[0].attempts == 1
    assert most == 1


async def test_a_lost_session_ends_what_ran_under_its_leases_and_begins_it_again(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    pipelines.script.plays["first"] = for_ever
    execution_id = await executed(ada, await made(ada, stage("first")))
    await pipelines.start_executor()
    await asyncio.wait_for(pipelines.script.event("first").wait(), 10)
    sql = """
        SELECT pg_terminate_backend(pid) FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    await pipelines.database.fetch(sql)

    async def begun_again() -> bool:
        return (await pipelines.execution(ada, execution_id)).stages[0].attempts == 2

    await until(begun_again)
    assert pipelines.script.ran == ["first", "first"]
