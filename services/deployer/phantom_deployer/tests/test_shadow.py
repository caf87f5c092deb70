"""Shadow rollouts, look by look."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from phantom_deployer.domain.rollouts import commands
from phantom_deployer.domain.rollouts.model import Judgement, ShadowReport
from phantom_deployer.domain.rollouts.spec import (
    AutoRollback,
    RolloutSpec,
    ShadowPlan,
    SuccessCriteria,
)
from phantom_deployer.domain.rollouts.turn import Evidence
from phantom_deployer.tests.plays import FAILED, NEW, OLD, Play
from phantom_platform.errors import Refused
from phantom_statistics.rollouts import Finding


def shadow(least: float = 0.9, duration_s: float = 60, **changes: object) -> RolloutSpec:
    spec = RolloutSpec("shadow", shadow=ShadowPlan(20, duration_s, least))
    return replace(spec, **changes)  # type: ignore[arg-type]


def copying(spec: RolloutSpec | None = None) -> Play:
    play = Play(spec or shadow())
    play.up()
    play.look()
    play.look()
    assert play.rollout.state == "progressing"
    return play


def report(lower: float, upper: float) -> Evidence:
    return Evidence(requests=500, shadow=ShadowReport(500, (lower + upper) / 2, lower, upper))


def test_a_shadow_gets_copies_and_no_traffic_and_goes_in_the_end() -> None:
    play = copying()
    assert (play.route.shadow.revision, play.route.shadow.bp) == (NEW, 2000)  # type: ignore[union-attr]
    assert (play.route.arms["control"], play.route.allocations, play.rollout.bp) == (OLD, (), 0)
    play.evidence = report(0.97, 0.99)
    play.look(50)
    assert play.rollout.state == "progressing"
    play.look(30)
    assert (play.rollout.state, play.rollout.reason_code) == ("succeeded", "completed")
    assert "500 answers compared, 0.9800 the same" in play.rollout.reason
    assert play.rollout.shadow == play.evidence.shadow
    assert play.route.shadow is None
    play.up()
    assert play.serving() == (1, 0)
    assert play.world.deployment.candidate == ""


@pytest.mark.parametrize(
    ("lower", "upper", "code"),
    [(0.7, 0.85, "agreement_below"), (0.85, 0.95, "agreement_unproven")],
)
def test_too_little_agreement_fails_it(lower: float, upper: float, code: str) -> None:
    play = copying()
    play.evidence = report(lower, upper)
    play.look(80)
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", code)
    assert play.world.deployment.candidate == ""
    assert play.rollout.shadow is not None


def test_without_a_least_agreement_it_is_only_reported() -> None:
    play = copying(shadow(least=0))
    play.evidence = report(0.1, 0.2)
    play.look(80)
    assert play.rollout.state == "succeeded"


def test_without_a_copy_it_waits_for_traffic_and_for_as_many_as_were_asked_for() -> None:
    play = copying(shadow(criteria=SuccessCriteria(minimum_requests=1000)))
    play.look(80)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "no_data")
    play.evidence = replace(report(0.97, 0.99), last_traffic_at=play.world.now + timedelta(seconds=3))
    play.look(5)
    assert play.rollout.state == "progressing"
    play.look(80)
    assert (play.rollout.state, play.rollout.reason_code) == ("analysing", "not_enough_data")
    play.evidence = replace(play.evidence, requests=1000)
    play.look()
    assert play.rollout.state == "succeeded"


def test_a_broken_limit_fails_a_shadow_in_the_end_and_not_before() -> None:
    play = copying()
    play.evidence = replace(report(0.97, 0.99), verdict=FAILED)
    play.look()
    assert play.rollout.state == "progressing"
    play.look(80)
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "criterion_failed")
    assert play.route.shadow is None


def test_a_broken_limit_only_pauses_where_that_was_asked_for_and_a_person_can_end_it() -> None:
    play = copying(shadow(auto_rollback=AutoRollback(enabled=False)))
    play.evidence = replace(report(0.97, 0.99), verdict=FAILED)
    play.look(80)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "criterion_failed")
    play.do(commands.promote, None)
    assert play.rollout.state == "failed"


def test_a_shadow_whose_answers_were_never_compared_does_not_succeed() -> None:
    play = copying(shadow(least=0))
    play.evidence = Evidence(requests=500)
    play.look(10)
    with pytest.raises(Refused) as error:
        play.do(commands.promote, None)
    assert error.value.code == "nothing_compared"
    play.look(80)
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "nothing_compared")
    assert play.route.shadow is None


def test_too_few_copies_for_long_pause_a_shadow_until_there_are_enough() -> None:
    play = copying(shadow(criteria=SuccessCriteria(minimum_requests=1000)))
    play.evidence = replace(report(0.97, 0.99), verdict=Judgement("not_comparable"))
    play.look(80)
    assert play.rollout.state == "analysing"
    play.look(600)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "not_enough_data")
    assert "500 of 1,000 copies" in play.rollout.reason
    play.evidence = replace(play.evidence, requests=1000)
    play.look()
    play.look()
    assert play.rollout.state == "succeeded"


def test_a_slower_shadow_is_reported_and_not_failed() -> None:
    slower = Judgement("fail", (Finding("latency_p95", "fail", reason="slower"),), "latency_p95")
    play = copying()
    play.evidence = replace(report(0.97, 0.99), verdict=slower)
    play.look(80)
    assert play.rollout.state == "succeeded"
    assert play.rollout.verdict == slower


def test_a_shadow_without_an_end_goes_on_until_somebody_ends_it() -> None:
    play = copying(shadow(duration_s=0))
    play.evidence = report(0.97, 0.99)
    play.look(100_000)
    assert play.rollout.state == "progressing"
    with pytest.raises(Refused) as error:
        play.do(commands.promote, 10_000)
    assert error.value.code == "candidate_is_shadow"
    play.do(commands.promote, None)
    assert (play.rollout.state, play.rollout.reason_code) == ("succeeded", "by_user")


def test_a_shadow_that_is_rolled_back_is_removed_and_its_end_acknowledged() -> None:
    play = copying()
    play.acknowledged = False
    play.do(commands.roll_back, "enough")
    assert play.route.shadow is None
    assert play.world.deployment.candidate == ""
    play.look()
    assert play.rollout.state == "rolling_back"
    play.acknowledged = True
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("rolled_back", "by_user")
