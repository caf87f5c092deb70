"""Replays as tasks: what begins, what ends, and what is begun anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from phantom_deployer.domain.rollouts import commands
from phantom_deployer.domain.rollouts.model import ReplayReport, Rollout
from phantom_deployer.domain.rollouts.spec import ReplayPlan, RolloutSpec
from phantom_deployer.domain.rollouts.turn import with_replay
from phantom_deployer.replayer import to_report
from phantom_deployer.replays import ATTEMPTS, CONCURRENCY, Replays
from phantom_deployer.tests.plays import OLD, Play
from phantom_platform.clock import SystemClock
from phantom_platform.errors import Unavailable
from phantom_platform.testing.waiting import until
from phantom_probing.replay_report import Quality, Report


def spec(**limits: float) -> RolloutSpec:
    return RolloutSpec("blue_green", rollback_window_s=60, replay=ReplayPlan(100, **limits))


def replaying(**limits: float) -> Play:
    play = Play(spec(**limits))
    play.up()
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("pending", "replaying")
    return play


# -- in the rollout --------------------------------------------------------------------------------------------------


def test_no_traffic_moves_before_the_replay_has_passed() -> None:
    play = replaying()
    for _ in range(3):
        play.look(60)
    assert (play.rollout.state, play.route.arms["control"]) == ("pending", OLD)
    play.rollout = with_replay(play.rollout, ReplayReport("pass", "as good"))
    play.look()
    assert play.rollout.state == "promoting"


def test_a_broken_limit_fails_the_rollout_without_any_traffic() -> None:
    play = replaying(max_disagreement=0.01)
    play.rollout = with_replay(play.rollout, ReplayReport("fail", "12 % differ"))
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "replay_failed")
    assert play.rollout.reason == "12 % differ"
    assert play.world.deployment.candidate == ""


def test_a_limit_that_cannot_be_judged_waits_for_a_person_and_goes_on_once_resumed() -> None:
    play = replaying(max_latency_p95_ms=5)
    play.rollout = with_replay(play.rollout, ReplayReport("not_enough_data", "a p95 needs 73"))
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "replay_not_judged")
    assert "a p95 needs 73" in play.rollout.reason
    play.do(commands.resume)
    play.look()
    assert play.rollout.state == "promoting"


def test_without_limits_too_little_data_is_only_reported() -> None:
    play = replaying()
    play.rollout = with_replay(play.rollout, ReplayReport("not_enough_data", "no requests"))
    play.look()
    assert play.rollout.state == "promoting"


def test_a_report_is_kept_as_the_library_gives_it() -> None:
    quality = Quality(50, 0.9, 0.8, 0.05, 0.15, 0.3, 0.4)
    report = to_report(Report(100, 200, 1, 0.1, 0.2, 3.0, 4.0, None, quality, verdict="pass", reason="fine"))
    assert (report.verdict, report.requests, report.rows, report.failed) == ("pass", 100, 200, 1)
    assert (report.latency_p95_ms, report.served_latency_p95_ms) == (4.0, 0.0)
    assert (report.labelled, report.accuracy_difference_lower, report.served_log_loss) == (50, 0.05, 0.4)
    with pytest.raises(ValueError, match="perhaps"):
        to_report(Report(verdict="perhaps"))


# -- as tasks --------------------------------------------------------------------------------------------------------


class MemoryReplaying:
    """Rollouts that wait, and replays that end when they are told to."""

    def __init__(self) -> None:
        self.rollouts: dict[str, Rollout] = {}
        self.reports: dict[str, ReplayReport] = {}
        self.began: list[str] = []
        self.cancelled: list[str] = []
        self.error: Exception | None = None
        self.may_end = asyncio.Event()

    async def waiting(self) -> list[Rollout]:
        return list(self.rollouts.values())

    async def run(self, rollout: Rollout) -> ReplayReport:
        self.began.append(rollout.id)
        if self.error is not None:
            raise self.error
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.append(rollout.id)
            raise
        report = ReplayReport("pass")
        await self.keep(rollout, report)
        return report

    async def keep(self, rollout: Rollout, report: ReplayReport) -> None:
        self.reports[rollout.id] = report
        self.rollouts.pop(rollout.id, None)

    def add(self, rollout_id: str) -> None:
        self.rollouts[rollout_id] = replace(replaying().rollout, id=rollout_id)


@pytest.fixture
def work() -> MemoryReplaying:
    return MemoryReplaying()


@pytest_asyncio.fixture(loop_scope="session")
async def replays(work: MemoryReplaying) -> AsyncIterator[Replays]:
    made = Replays(work, SystemClock(), tick_s=0.01)  # type: ignore[arg-type]
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_each_replay_is_run_once_and_few_at_once(work: MemoryReplaying, replays: Replays) -> None:
    for number in range(CONCURRENCY + 2):
        work.add(f"r{number}")
    await until(lambda: len(work.began) >= CONCURRENCY)
    assert len(work.began) == CONCURRENCY
    work.may_end.set()
    await until(lambda: len(work.reports) == CONCURRENCY + 2)
    assert sorted(work.began) == sorted(work.reports)


async def test_a_rollout_that_does_not_wait_any_more_ends_its_replay(
    work: MemoryReplaying, replays: Replays
) -> None:
    work.add("r1")
    await until(lambda: work.began == ["r1"])
    work.rollouts.clear()
    await until(lambda: work.cancelled == ["r1"])
    assert not work.reports


async def test_one_that_meets_an_outage_is_begun_anew(work: MemoryReplaying, replays: Replays) -> None:
    work.error = Unavailable("no Kafka", retry_after_s=0.01)
    work.add("r1")
    await until(lambda: len(work.began) > ATTEMPTS + 1)
    assert not work.reports
    work.error = None
    work.may_end.set()
    await until(lambda: "r1" in work.reports)


async def test_one_that_fails_in_an_unknown_way_is_given_up(
    work: MemoryReplaying, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phantom_deployer.replays.UNKNOWN_RETRY_S", 0.01)
    work.error = RuntimeError("odd")
    work.add("r1")
    await until(lambda: "r1" in work.reports)
    assert work.reports["r1"].verdict == "fail"
    assert "RuntimeError: odd" in work.reports["r1"].reason
    assert work.began == ["r1"] * ATTEMPTS


async def test_a_deployer_that_ends_leaves_its_replays_to_the_next(work: MemoryReplaying) -> None:
    work.add("r1")
    first = asyncio.create_task(Replays(work, SystemClock(), tick_s=0.01).run())  # type: ignore[arg-type]
    await until(lambda: work.began == ["r1"])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert work.cancelled == ["r1"]
    second = asyncio.create_task(Replays(work, SystemClock(), tick_s=0.01).run())  # type: ignore[arg-type]
    work.may_end.set()
    await until(lambda: "r1" in work.reports)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert work.began == ["r1", "r1"]
