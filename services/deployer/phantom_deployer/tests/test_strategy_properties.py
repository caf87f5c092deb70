"""Blue-green, rolling and shadow rollouts in whatever order things happen: they end, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.rollouts.batches import Batches
from phantom_deployer.domain.rollouts.model import ReplayReport
from phantom_deployer.domain.rollouts.spec import (
    AutoRollback,
    BlueGreenPlan,
    ReplayPlan,
    RollingPlan,
    RolloutSpec,
    ShadowPlan,
    SuccessCriteria,
)
from phantom_deployer.domain.rollouts.turn import with_replay
from phantom_deployer.tests.plays import NEW, OLD, Play
from phantom_deployer.tests.test_rollout_properties import HAPPENINGS, PASSED, command, commands, lost, seen


def dies(revision: str) -> Callable[[Play], None]:
    def happen(play: Play) -> None:
        serving = play.world.deployment.serving(revision)
        if serving:
            play.world.died(serving[0])
            play.world.step()
            play._publish()

    return happen


def scaled(number: int) -> Callable[[Play], None]:
    def happen(play: Play) -> None:
        play.world.deployment, _ = mechanics.scale(play.world.deployment, number)

    return happen


def replayed(play: Play) -> None:
    if play.rollout.reason_code == "replaying" and play.rollout.replay is None:
        play.rollout = with_replay(play.rollout, ReplayReport("pass"))


def quickly(play: Play) -> None:
    play.look()


MORE: dict[str, Callable[[Play], None]] = HAPPENINGS | {
    "an old replica dies": dies(OLD),
    "a new replica dies": dies(NEW),
    "scaled to 2": scaled(2),
    "scaled to 4": scaled(4),
    "replayed": replayed,
    "a second later": quickly,
}
# What brings a rollout forward comes as often as everything else.
ONWARD = ("replicas come up", "a second later", "a second later", "replayed", "passes", "approve", "resume")
THINGS = st.one_of(st.sampled_from(ONWARD), st.sampled_from(sorted(MORE)))
COMMON = {
    "criteria": st.sampled_from([SuccessCriteria(), SuccessCriteria(minimum_requests=50)]),
    "auto_rollback": st.builds(AutoRollback, st.booleans()),
    "replay": st.sampled_from([None, ReplayPlan(10)]),
    "approval_required": st.booleans(),
    "rollback_window_s": st.sampled_from([0.0, 60.0]),
}
LIMITS = st.integers(0, 3)
SPECS = st.one_of(
    st.builds(
        RolloutSpec, st.just("blue_green"), blue_green=st.builds(BlueGreenPlan, st.booleans()), **COMMON
    ),
    st.builds(RolloutSpec, st.just("rolling"), rolling=st.builds(RollingPlan, LIMITS, LIMITS), **COMMON),
    st.builds(
        RolloutSpec,
        st.just("shadow"),
        shadow=st.builds(
            ShadowPlan, st.just(20.0), st.sampled_from([0.0, 60.0]), st.sampled_from([0.0, 0.9])
        ),
        **COMMON,
    ),
)


def check(play: Play) -> None:
    """What must hold at any time."""
    rollout, deployment = play.rollout, play.world.deployment
    switched = deployment.stable == NEW
    candidate = deployment.revision(NEW)
    assert deployment.stable in (OLD, NEW)
    assert (deployment.shadow is not None) <= (rollout.spec.strategy == "shadow" and rollout.is_live)
    assert (deployment.standby_revision is not None) <= (switched and rollout.is_live)
    if rollout.state in ("pending", "waiting_for_approval"):
        assert not switched
        assert deployment.candidate_bp == 0
    elif rollout.state == "promoting":
        assert switched
    elif rollout.state in ("rolling_back", "rolled_back", "failed"):
        assert not switched
        assert deployment.candidate_bp == 0
    elif rollout.state == "succeeded":
        assert switched == (rollout.spec.strategy != "shadow")
        assert deployment.candidate == ""
    if rollout.spec.strategy == "shadow":
        assert not switched
        assert deployment.candidate_bp == 0
    if rollout.spec.strategy == "blue_green":
        assert deployment.candidate_bp == 0
    if rollout.spec.strategy == "rolling" and rollout.is_live and not switched and candidate:
        stable = deployment.stable_revision
        assert stable is not None
        assert deployment.wanted(stable) >= 1
        assert deployment.candidate_bp < 10_000
    assert play.route.arms["control"] == deployment.stable


def bring_on(play: Play) -> None:
    """Until it has more than a candidate."""
    for _ in range(10):
        if play.rollout.spans:
            return
        play.up()
        replayed(play)
        command(commands.approve, "")(play)
        command(commands.resume)(play)
        play.look()
        check(play)


def finish(play: Play) -> None:
    """With good evidence, replicas up and people who let it go on, it ends."""
    for _ in range(200):
        if not play.rollout.is_live:
            return
        play.world.advance(31)
        play.up()
        replayed(play)
        command(commands.approve, "")(play)
        if play.rollout.state == "paused":
            command(commands.resume)(play)
        if play.rollout.spec.strategy == "shadow" and play.rollout.state == "progressing":
            command(commands.promote, None)(play)
        seen(play, PASSED)
        check(play)
    raise AssertionError(f"did not end: {play.rollout}")


@settings(max_examples=400, deadline=None)
@given(spec=SPECS, is_on=st.booleans(), happenings=st.lists(THINGS, max_size=40))
def test_any_order_of_things_ends_and_leaves_nothing_behind(
    spec: RolloutSpec, is_on: bool, happenings: list[str]
) -> None:
    play = Play(spec, replicas=3)
    if is_on:
        bring_on(play)
    for each in happenings:
        before = play.rollout
        MORE[each](play)
        check(play)
        if not before.is_live:
            assert play.rollout == before  # an end is an end
    finish(play)
    for _ in range(4):
        play.world.advance(31)
        play.up()
    deployment = play.world.deployment
    assert deployment.standby_revision is None
    assert deployment.shadow is None
    stable = deployment.stable_revision
    assert stable is not None
    assert stable.target is None
    assert len(deployment.serving(stable.id)) == deployment.replicas
    assert {each.revision for each in deployment.processes} <= {deployment.stable, deployment.candidate}


@settings(max_examples=60, deadline=None)
@given(spec=SPECS, happenings=st.lists(THINGS, max_size=20))
def test_looks_that_are_lost_change_nothing(spec: RolloutSpec, happenings: list[str]) -> None:
    whole, disturbed = Play(spec, replicas=3), Play(spec, replicas=3)
    for each in happenings:
        lost(disturbed)
        MORE[each](whole)
        MORE[each](disturbed)
    assert disturbed.rollout == whole.rollout
    assert disturbed.world.deployment == whole.world.deployment


@given(st.integers(1, 64), LIMITS, LIMITS)
def test_the_shares_of_batches_rise_to_all_of_it(replicas: int, surge: int, unavailable: int) -> None:
    batches = Batches.of(RollingPlan(unavailable, surge), replicas)
    if batches.is_possible:
        shares = batches.shares()
        assert list(shares) == sorted(set(shares))
        assert shares[-1] == 10_000
        assert len(shares) <= replicas + 1
