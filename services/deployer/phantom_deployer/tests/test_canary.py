"""Canary rollouts, look by look."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from phantom_deployer.domain.rollouts import commands, plan
from phantom_deployer.domain.rollouts.model import Judgement
from phantom_deployer.domain.rollouts.spec import AutoRollback, CanaryPlan, RolloutSpec, SuccessCriteria
from phantom_deployer.domain.rollouts.turn import Evidence
from phantom_deployer.tests.builders import model
from phantom_deployer.tests.plays import FAILED, NEW, OLD, PASSED, Play
from phantom_platform.errors import Forbidden, Refused
from phantom_statistics.rollouts import Finding

NOT_ENOUGH = Judgement("not_enough_data")


def canary(
    initial: float = 10,
    increment: float = 30,
    target: float = 100,
    *,
    pause_at: tuple[float, ...] = (),
    **changes: Any,
) -> RolloutSpec:
    steps = CanaryPlan(initial, target, increment, interval_s=60, pause_at=pause_at)
    return replace(RolloutSpec("canary", canary=steps, rollback_window_s=60), **changes)


def progressing(spec: RolloutSpec | None = None) -> Play:
    """At its first step, with the clock running."""
    play = Play(spec or canary())
    play.up()
    play.look()
    play.look()
    assert (play.rollout.state, play.rollout.step) == ("progressing", 0)
    return play


def served(play: Play, verdict: Judgement, seconds: float = 70, requests: int = 1000) -> None:
    """Windows up to so much later, with traffic to their end."""
    later = play.world.now + timedelta(seconds=seconds)
    play.evidence = Evidence(verdict=verdict, requests=requests, last_traffic_at=later)
    play.look(seconds)


def test_one_percent_to_all_by_five_are_twenty_one_steps() -> None:
    shares = plan.shares(CanaryPlan(1, 100, 5, 60))
    assert [each / 100 for each in shares] == [*range(1, 97, 5), 100]
    assert len(shares) == 21
    assert plan.shares(CanaryPlan(10, 60, 20, 60)) == (1000, 3000, 5000, 6000)
    assert plan.shares(CanaryPlan(100, 100, 20, 60)) == (10_000,)


def test_a_canary_goes_on_step_by_step_and_is_complete_after_its_window() -> None:
    play = progressing()
    for step, share in ((0, 1000), (1, 4000), (2, 7000)):
        assert (play.rollout.step, play.world.deployment.candidate_bp) == (step, share)
        play.look()
        served(play, PASSED)
    assert (play.rollout.state, play.rollout.bp) == ("promoting", 10_000)
    assert play.route.arms["control"] == OLD  # warm, until the window is over
    play.look()
    served(play, PASSED)
    assert (play.rollout.state, play.rollout.reason_code) == ("succeeded", "completed")
    assert play.world.deployment.stable == NEW
    assert play.rollout.percentage == 100


def test_a_steps_clock_starts_once_every_gateway_has_acknowledged_its_share() -> None:
    play = Play(canary())
    play.up()
    play.acknowledged = False
    play.look()
    for _ in range(5):
        play.look(60)
    assert play.rollout.state == "progressing"
    assert play.rollout.step_ends_at is None
    play.acknowledged = True
    play.look()
    span = play.rollout.span
    assert span is not None
    assert span.started_at == play.world.now
    assert span.evidence_from is not None
    assert span.evidence_from.timestamp() % 5 == 0
    assert play.rollout.step_ends_at == span.evidence_from + timedelta(seconds=60)


def test_a_step_that_has_not_passed_by_its_end_is_held_until_it_does() -> None:
    play = progressing()
    served(play, NOT_ENOUGH)
    assert (play.rollout.state, play.rollout.reason_code) == ("analysing", "not_enough_data")
    served(play, NOT_ENOUGH)
    assert play.rollout.transitions == 3
    served(play, PASSED)
    assert (play.rollout.state, play.rollout.step) == ("progressing", 1)


@pytest.mark.parametrize("word", ["not_enough_data", "not_enough_units", "not_comparable"])
def test_a_step_that_is_not_decided_for_long_pauses_and_goes_on_by_itself(word: Any) -> None:
    play = progressing()
    verdict = Judgement(word, (Finding("error_rate", word, reason="nobody can tell"),))
    served(play, NOT_ENOUGH)
    served(play, verdict, 590)
    assert (play.rollout.state, play.rollout.reason_code) == ("analysing", "not_enough_data")
    served(play, verdict, 20)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", word)
    assert play.rollout.reason.endswith("error_rate: nobody can tell")
    assert play.moves[-1].to_state == "paused"
    before = play.rollout.transitions
    served(play, verdict, 10_000)
    assert play.rollout.transitions == before
    served(play, PASSED, 5)
    assert (play.rollout.state, play.rollout.reason_code) == ("progressing", "decided")
    served(play, PASSED, 5)  # no second interval: the step's evidence passes as it is
    assert (play.rollout.state, play.rollout.step) == ("progressing", 1)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (commands.resume, "progressing"),
        (commands.promote, "progressing"),
        (commands.roll_back, "rolling_back"),
    ],
)
def test_a_person_decides_what_evidence_does_not(change: Any, state: str) -> None:
    play = progressing()
    served(play, NOT_ENOUGH)
    served(play, NOT_ENOUGH, 600)
    assert play.rollout.state == "paused"
    step = play.rollout.step
    play.do(change, *{commands.promote: (None,), commands.roll_back: ("",)}.get(change, ()))
    assert play.rollout.state == state
    assert play.rollout.step == step + (change is commands.promote)


def test_a_clock_that_begins_anew_over_and_over_keeps_all_evidence_in_two_spans() -> None:
    play = progressing()
    first = play.rollout.spans[0]
    for _ in range(20):
        play.evidence = Evidence(unavailable="nobody says anything")
        play.look(31)
        assert play.rollout.state == "paused"
        play.evidence = Evidence()
        play.look(7)
        assert play.rollout.state == "progressing"
    assert len(play.rollout.spans) == 2
    earlier, present = play.rollout.spans
    assert (earlier.started_at, earlier.ended_at) == (first.started_at, present.started_at)
    assert present.started_at == play.world.now
    assert earlier.first_version == present.first_version == first.first_version


def test_what_somebody_forgave_is_not_joined_with_what_counts() -> None:
    play = progressing(canary(auto_rollback=AutoRollback(enabled=False)))
    served(play, FAILED, 5)
    play.do(commands.resume)
    forgiven = play.rollout.spans[0]
    for _ in range(3):
        play.evidence = Evidence(unavailable="nobody says anything")
        play.look(31)
        play.evidence = Evidence()
        play.look()
    assert play.rollout.judged_from == 1
    assert len(play.rollout.spans) == 3
    assert play.rollout.spans[0] == forgiven
    assert play.rollout.spans[1].started_at == forgiven.ended_at


@pytest.mark.parametrize("seconds", [10.0, 70.0])
def test_a_failure_acts_at_once_and_ends_once_acknowledged(seconds: float) -> None:
    play = progressing()
    before = len(play.versions)
    play.acknowledged = False
    served(play, FAILED, seconds)
    assert (play.rollout.state, play.rollout.fired) == ("rolling_back", "error_rate_threshold")
    assert len(play.versions) == before + 1
    assert play.route.allocations == ()
    assert play.rollout.rollback_version == before + 1
    play.look()
    assert play.rollout.state == "rolling_back"
    play.acknowledged = True
    play.look(2)
    assert play.rollout.state == "rolled_back"
    assert "3.0 s later" in play.rollout.reason
    assert "error_rate_threshold: too many" in play.rollout.reason
    assert play.world.deployment.stable == OLD


def test_a_failure_acts_while_it_is_paused_analysing_or_promoting() -> None:
    paused = progressing()
    paused.do(commands.pause)
    analysing = progressing()
    served(analysing, NOT_ENOUGH)
    promoting = progressing()
    promoting.do(commands.promote, 10_000)
    promoting.look()
    for play, state in ((paused, "paused"), (analysing, "analysing"), (promoting, "promoting")):
        assert play.rollout.state == state
        served(play, FAILED, 5)
        assert play.rollout.state == "rolling_back"
        assert play.route.arms["control"] == OLD
        assert play.route.allocations == ()


def test_a_rest_of_the_traffic_may_stay_after_a_rollback() -> None:
    play = progressing(canary(auto_rollback=AutoRollback(rollback_percentage=2)))
    served(play, FAILED, 5)
    play.look()
    assert (play.rollout.state, play.rollout.percentage) == ("rolled_back", 2)
    assert play.world.deployment.candidate_bp == 200
    assert "2 % stay on it" in play.rollout.reason


def test_without_automatic_rollback_a_failure_waits_for_a_person() -> None:
    play = progressing(canary(auto_rollback=AutoRollback(enabled=False)))
    served(play, FAILED, 5)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "criterion_failed")
    assert play.world.deployment.candidate_bp == 1000
    served(play, FAILED, 5)
    assert play.rollout.transitions == 3
    play.do(commands.resume)
    assert play.rollout.state == "progressing"
    assert play.rollout.judged_from == len(play.rollout.spans) - 1  # what counts begins now
    served(play, PASSED)
    assert play.rollout.step == 1


def test_no_traffic_for_a_step_pauses_until_there_is_some() -> None:
    play = progressing()
    play.evidence = Evidence(verdict=NOT_ENOUGH)
    play.look(30)
    assert play.rollout.state == "progressing"
    play.look(70)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "no_data")
    play.look(100)
    assert play.rollout.state == "paused"
    served(play, NOT_ENOUGH, 5)
    assert (play.rollout.state, play.rollout.reason_code) == ("progressing", "traffic")
    begins = play.rollout.span.started_at if play.rollout.span else None
    assert begins == play.world.now  # the step's clock began anew


@pytest.mark.parametrize("state", ["progressing", "analysing", "promoting"])
def test_without_metrics_it_pauses_and_goes_on_by_itself(state: str) -> None:
    play = progressing()
    if state == "analysing":
        served(play, NOT_ENOUGH)
    elif state == "promoting":
        play.do(commands.promote, 10_000)
        play.look()
    assert play.rollout.state == state
    play.evidence = Evidence(unavailable="nobody says anything")
    play.look(31)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "metrics_unavailable")
    play.look(500)
    assert play.rollout.state == "paused"
    play.evidence = Evidence()
    play.look()
    assert play.rollout.state == ("promoting" if state == "promoting" else "progressing")
    assert play.rollout.step_ends_at is not None
    assert play.rollout.step_ends_at > play.world.now


def test_a_pause_by_a_person_does_not_end_by_itself() -> None:
    play = progressing()
    play.evidence = Evidence(unavailable="nobody says anything")
    play.look()
    play.do(commands.pause)
    play.evidence = Evidence()
    served(play, PASSED, 500)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "by_user")
    with pytest.raises(Refused) as error:
        play.do(commands.pause)
    assert error.value.code == "rollout_paused"
    play.do(commands.resume)
    assert (play.rollout.state, play.rollout.step) == ("progressing", 0)
    with pytest.raises(Refused) as error:
        play.do(commands.resume)
    assert error.value.code == "rollout_not_paused"


def test_it_waits_where_it_was_asked_to_and_at_its_target() -> None:
    play = progressing(canary(initial=10, increment=20, target=50, pause_at=(30,)))
    served(play, PASSED)
    play.look()
    served(play, PASSED)
    assert (play.rollout.state, play.rollout.reason_code, play.rollout.bp) == ("paused", "step", 3000)
    play.do(commands.resume)
    play.look()
    served(play, PASSED)
    assert (play.rollout.state, play.rollout.reason_code, play.rollout.bp) == (
        "paused",
        "target_reached",
        5000,
    )
    served(play, PASSED, 500)
    assert play.rollout.state == "paused"
    play.do(commands.resume)
    assert play.rollout.steps[play.rollout.step :] == (7000, 9000, 10_000)
    assert play.world.deployment.candidate_bp == 7000


def test_promoting_jumps_forward_and_goes_on_by_the_increment() -> None:
    play = progressing(canary(initial=1, increment=5))
    play.do(commands.promote, 5000)
    assert (play.rollout.bp, play.rollout.state) == (5000, "progressing")
    assert play.rollout.step_ends_at is None  # until gateways acknowledge it
    play.look()
    served(play, PASSED)
    assert play.rollout.bp == 5500
    play.do(commands.promote, None)
    assert play.rollout.bp == 6000
    for share in (6000, 100):
        with pytest.raises(Refused) as error:
            play.do(commands.promote, share)
        assert error.value.code == "backwards"
    play.do(commands.promote, 10_000)
    assert (play.rollout.state, play.rollout.step) == ("promoting", len(play.rollout.steps) - 1)
    play.do(commands.promote, None)
    assert (play.rollout.state, play.rollout.reason_code) == ("succeeded", "by_user")
    assert play.world.deployment.stable == NEW


def test_nothing_is_promoted_before_there_is_traffic() -> None:
    play = Play(canary(approval_required=True))
    with pytest.raises(Refused) as error:
        play.do(commands.promote, 5000)
    assert error.value.code == "candidate_not_ready"
    play.up()
    play.look()
    with pytest.raises(Refused) as error:
        play.do(commands.promote, 5000)
    assert error.value.code == "waiting_for_approval"


def test_a_candidate_that_cannot_be_started_fails_the_rollout_with_its_reason() -> None:
    play = Play(canary())
    play.world.step()
    for _ in range(2):
        replica = play.world.deployment.replicas_of(NEW)[0]
        play.world.died(replica, error_code="corrupt_model", error_message="not a model", is_permanent=True)
        play.world.step()
        play.world.advance(60)
        play.world.step()
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "corrupt_model")
    assert "not a model" in play.rollout.reason
    assert play.world.deployment.candidate == ""


def test_a_candidate_that_is_never_ready_fails_the_rollout_in_time() -> None:
    play = Play(canary(ready_timeout_s=300))
    play.world.step()
    play.look(200)
    assert play.rollout.state == "pending"
    play.look(200)
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "candidate_not_ready")
    assert "0 of 1 replicas" in play.rollout.reason
    assert play.world.deployment.candidate == ""


def test_a_candidate_that_somebody_took_away_ends_the_rollout() -> None:
    play = progressing()
    play.world.deployment = replace(play.world.deployment, candidate="")
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "candidate_gone")


# -- approvals -------------------------------------------------------------------------------------------------------


def waiting(**changes: Any) -> Play:
    play = Play(canary(approval_required=True, **changes))
    play.up()
    play.look()
    assert play.rollout.state == "waiting_for_approval"
    assert play.route.allocations == ()
    return play


def decide(play: Play, actor: str, change: object = commands.approve) -> None:
    play.actor = actor
    play.do(change, "because")
    play.actor = "deployer"


def test_an_approval_lets_the_candidate_have_traffic() -> None:
    play = waiting(approvers=("bob", "cid"))
    decide(play, "bob")
    assert (play.rollout.approved_by, play.rollout.reason) == ("bob", "approved by bob: because")
    play.look()
    assert (play.rollout.state, play.world.deployment.candidate_bp) == ("progressing", 1000)


def test_an_approval_is_given_once_in_time_and_by_somebody_else_who_may() -> None:
    play = waiting(approvers=("ann", "bob", "cid"))
    with pytest.raises(Forbidden) as forbidden:
        decide(play, "ann")
    assert forbidden.value.code == "requester_cannot_approve"
    with pytest.raises(Forbidden) as forbidden:
        decide(play, "dan")
    assert forbidden.value.code == "not_an_approver"
    decide(play, "bob")
    with pytest.raises(Refused) as refused:
        decide(play, "cid")
    assert (refused.value.code, refused.value.fields["approved_by"]) == ("already_approved", "bob")


def test_a_rejection_ends_it_and_takes_the_candidate_away() -> None:
    play = waiting()
    decide(play, "bob", commands.reject)
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "rejected")
    assert play.world.deployment.candidate == ""
    with pytest.raises(Refused) as refused:
        decide(play, "cid")
    assert refused.value.code == "not_waiting_for_approval"


def test_an_approval_that_nobody_gave_in_time_ends_it() -> None:
    play = waiting(approval_timeout_s=3600)
    play.world.advance(3600)
    with pytest.raises(Refused) as refused:
        decide(play, "bob")  # before anybody looked
    assert refused.value.code == "approval_expired"
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "approval_expired")
    with pytest.raises(Refused) as refused:
        decide(play, "bob")
    assert refused.value.code == "approval_expired"


def put_off(play: Play) -> None:
    """Pauses and resumes, where that is allowed."""
    if play.rollout.state == "waiting_for_approval":
        with pytest.raises(Refused) as error:
            play.do(commands.pause)
        assert error.value.code == "waiting_for_approval"
        return
    play.do(commands.pause)
    play.world.advance(30)
    play.do(commands.resume)


@pytest.mark.parametrize(
    ("is_ready", "spec", "code"),
    [
        (True, canary(approval_required=True, approval_timeout_s=300), "approval_expired"),
        (False, canary(ready_timeout_s=300), "candidate_not_ready"),
    ],
)
def test_nobody_puts_off_what_is_due_before_traffic_by_pausing(
    is_ready: bool, spec: RolloutSpec, code: str
) -> None:
    play = Play(spec)
    play.up() if is_ready else play.world.step()
    for _ in range(10):
        play.look(50)
        if not play.rollout.is_live:
            break
        put_off(play)
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", code)


# -- other commands --------------------------------------------------------------------------------------------------


def test_a_person_may_roll_it_back_at_any_time_before_its_end() -> None:
    early, late = Play(canary()), progressing()
    for play in (early, late):
        play.do(commands.roll_back, "changed our minds")
        assert (play.rollout.state, play.rollout.reason_code) == ("rolling_back", "by_user")
        for change in (commands.pause, commands.resume):
            with pytest.raises(Refused) as error:
                play.do(change)
            assert error.value.code == "rollout_ended"
        play.look()
        assert play.rollout.state == "rolled_back"
        assert "changed our minds" in play.rollout.reason
    assert late.world.deployment.candidate == NEW  # stays for a look
    assert early.world.deployment.candidate == ""


def test_a_rollout_that_is_superseded_gives_its_traffic_back() -> None:
    play = progressing()
    play.do(commands.supersede, "1.2.0")
    assert (play.rollout.state, play.rollout.reason_code) == ("superseded", "superseded")
    assert play.route.allocations == ()
    assert play.world.deployment.candidate == ""


def test_what_it_takes_to_see_a_doubled_error_rate_is_said_when_it_begins() -> None:
    spec = canary(criteria=SuccessCriteria(minimum_requests=1000))
    begin = commands.Begin("r-1", model("1.1.0"), spec, False, "s", "ann", error_rate=0.01)
    play = progressing()
    around = play._around()
    fresh = Play(spec)
    assert fresh.rollout.requests_to_detect_doubling == 0
    created = commands.create(replace(play.world.deployment, candidate=""), begin, around).rollout
    assert created.requests_to_detect_doubling == 4500
    assert "minimum_requests 1,000 is below the 4,500" in created.warnings[0]
