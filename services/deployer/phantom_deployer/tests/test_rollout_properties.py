"""In whatever order things happen: a rollout ends, its share is its state's, and lost looks change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from phantom_deployer.domain.rollouts import commands
from phantom_deployer.domain.rollouts.model import Judgement, ShadowReport
from phantom_deployer.domain.rollouts.spec import AutoRollback, CanaryPlan, RolloutSpec
from phantom_deployer.domain.rollouts.step import look
from phantom_deployer.domain.rollouts.turn import Evidence
from phantom_deployer.tests.plays import FAILED, PASSED, Play
from phantom_platform.errors import PhantomError

HOLD = Judgement("not_enough_data")


def seen(play: Play, verdict: Judgement, *, traffic: bool = True) -> None:
    later = play.world.now + timedelta(seconds=70)
    compares = traffic and play.rollout.spec.strategy == "shadow"
    play.evidence = Evidence(
        verdict=verdict,
        requests=500 * traffic,
        last_traffic_at=later if traffic else None,
        shadow=ShadowReport(500, 0.98, 0.96, 0.99) if compares else None,
    )
    play.look(70)


def gone(play: Play) -> None:
    play.evidence = Evidence(unavailable="nobody says anything")
    play.look(70)


def unacknowledged(play: Play) -> None:
    play.acknowledged = False
    seen(play, PASSED)
    play.acknowledged = True


def lost(play: Play) -> None:
    """A look that is killed before it commits."""
    look(play.rollout, play.world.deployment, play._around())


def command(change: Callable[..., None], *arguments: object) -> Callable[[Play], None]:
    def do(play: Play) -> None:
        play.actor = "bob"
        try:
            play.do(change, *arguments)
        except PhantomError:
            assert play.rollout.state  # a refusal leaves everything as it was
        play.actor = "deployer"

    do.__name__ = f"{change.__name__}{arguments}"
    return do


HAPPENINGS: dict[str, Callable[[Play], None]] = {
    "passes": lambda play: seen(play, PASSED),
    "holds": lambda play: seen(play, HOLD),
    "no traffic": lambda play: seen(play, HOLD, traffic=False),
    "no metrics": gone,
    "no acknowledgement": unacknowledged,
    "replicas come up": lambda play: play.up(),
    "lost look": lost,
    "fails": lambda play: seen(play, FAILED),
    "pause": command(commands.pause),
    "resume": command(commands.resume),
    "promote": command(commands.promote, None),
    "promote to 60": command(commands.promote, 6000),
    "promote to 100": command(commands.promote, 10_000),
    "roll back": command(commands.roll_back, ""),
    "approve": command(commands.approve, ""),
    "reject": command(commands.reject, ""),
}
SPECS = st.builds(
    lambda initial, increment, target, approval, enabled, rest, pauses: RolloutSpec(
        "canary",
        canary=CanaryPlan(
            initial, target, increment, 60, pause_at=(initial,) if pauses and initial < target else ()
        ),
        auto_rollback=AutoRollback(enabled, rollback_percentage=rest),
        approval_required=approval,
        rollback_window_s=60,
    ),
    st.sampled_from([1, 10, 40]),
    st.sampled_from([5, 30, 100]),
    st.sampled_from([40, 60, 100]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1]),
    st.booleans(),
)


def check(play: Play) -> None:
    """What must hold at any time."""
    rollout, deployment = play.rollout, play.world.deployment
    bp = deployment.candidate_bp
    if rollout.state in ("pending", "waiting_for_approval") or (
        rollout.state == "paused" and not rollout.spans
    ):
        assert bp == 0
    elif rollout.state in ("progressing", "analysing", "promoting", "paused"):
        assert bp == rollout.bp == rollout.steps[rollout.step]
        assert (rollout.state == "promoting") <= (bp == 10_000)
    elif rollout.state in ("rolling_back", "rolled_back"):
        assert bp == rollout.rest_bp <= 100
    elif rollout.state == "succeeded":
        assert deployment.stable == rollout.candidate
    else:
        assert bp == 0
        assert deployment.candidate == ""
    assert (rollout.ended_at is not None) == (not rollout.is_live)
    # Spans follow each other on route versions that follow each other.
    ended = [each for each in rollout.spans if each.ended_at is not None]
    assert len(ended) >= len(rollout.spans) - 1
    assert all(each.first_version for each in rollout.spans)
    versions = [each.first_version for each in rollout.spans]
    assert versions == sorted(versions)


def finish(play: Play) -> None:
    """With good evidence, replicas up and people who let it go on, it ends."""
    for _ in range(200):
        if not play.rollout.is_live:
            return
        play.up()
        command(commands.approve, "")(play)
        if play.rollout.state == "paused":
            command(commands.resume)(play)
        seen(play, PASSED)
        check(play)
    raise AssertionError(f"did not end: {play.rollout}")


@settings(max_examples=120, deadline=None)
@given(spec=SPECS, happenings=st.lists(st.sampled_from(sorted(HAPPENINGS)), max_size=25))
def test_any_order_of_things_keeps_shares_and_states_together_and_ends(
    spec: RolloutSpec, happenings: list[str]
) -> None:
    play = Play(spec)
    for each in happenings:
        before = play.rollout
        HAPPENINGS[each](play)
        check(play)
        if not before.is_live:
            assert play.rollout == before  # an end is an end
    finish(play)


@settings(max_examples=60, deadline=None)
@given(
    spec=SPECS,
    happenings=st.lists(st.sampled_from(sorted(HAPPENINGS)), max_size=15),
    losses=st.lists(st.integers(0, 15), max_size=5),
)
def test_looks_that_are_lost_change_nothing(
    spec: RolloutSpec, happenings: list[str], losses: list[int]
) -> None:
    whole, disturbed = Play(spec), Play(spec)
    for index, each in enumerate(happenings):
        HAPPENINGS[each](whole)
        for _ in range(losses.count(index)):
            lost(disturbed)
        HAPPENINGS[each](disturbed)
    assert replace(disturbed.rollout, notes={}) == replace(whole.rollout, notes={})
    assert disturbed.world.deployment.allocations == whole.world.deployment.allocations
