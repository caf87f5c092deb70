"""Rolling rollouts, look by look."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.rollouts import commands
from phantom_deployer.domain.rollouts.model import Judgement
from phantom_deployer.domain.rollouts.spec import (
    RollingPlan,
    RolloutSpec,
    SuccessCriteria,
)
from phantom_deployer.domain.rollouts.turn import Evidence
from phantom_deployer.tests.plays import FAILED, NEW, OLD, PASSED, Play
from phantom_platform.errors import Invalid, Refused
from phantom_statistics.rollouts import Finding


def rolling(surge: int = 0, unavailable: int = 0, **changes: object) -> RolloutSpec:
    spec = RolloutSpec("rolling", rolling=RollingPlan(unavailable, surge), rollback_window_s=0)
    return replace(spec, **changes)  # type: ignore[arg-type]


def roll(play: Play, most: int = 60) -> list[tuple[int, int, int]]:
    """(old replicas, new ones, share) at each change, until it has ended."""
    seen: list[tuple[int, int, int]] = []
    for _ in range(most):
        if not play.rollout.is_live:
            break
        play.look()
        now = (*play.serving(), play.rollout.bp)
        if now[2] and (not seen or seen[-1] != now):
            seen.append(now)
        play.up()
    return seen


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable"),
    [
        (1, 1, 0),
        (1, 0, 0),
        (2, 0, 1),
        (3, 1, 0),
        (3, 0, 1),
        (4, 2, 1),
        (5, 0, 2),
        (3, 9, 0),
        (3, 0, 9),
        (3, 9, 9),
    ],
)
def test_replica_by_replica_within_its_limits(replicas: int, surge: int, unavailable: int) -> None:
    play = Play(rolling(surge, unavailable), replicas)
    surge = surge or (0 if unavailable else 1)
    for _ in range(80):
        if not play.rollout.is_live:
            break
        play.look()
        wanted = [
            play.world.deployment.wanted(each) for each in play.world.deployment.revisions if each.is_live
        ]
        assert sum(wanted) <= replicas + surge
        play.world.step()
        old, new = play.serving()
        assert old + new >= max(replicas - unavailable, 1)
        play.up()
    assert play.rollout.state == "succeeded"
    play.up()
    assert play.serving() == (0, replicas)
    assert play.world.deployment.stable == NEW


def test_the_share_follows_ready_replicas_over_all_that_serve() -> None:
    play = Play(rolling(surge=1), replicas=3)
    assert play.rollout.steps == (3333, 6667, 7500, 10_000)
    shares = [share for *_, share in roll(play)]
    assert shares == sorted(shares)
    assert set(shares) == {3333, 6667, 7500, 10_000}
    assert play.rollout.state == "succeeded"


def test_a_dead_replica_lowers_the_share_until_it_is_back() -> None:
    play = Play(rolling(surge=2, criteria=SuccessCriteria(minimum_requests=10)), replicas=4)
    play.up()
    play.look()
    assert play.rollout.bp == 5000
    play.up()
    play.look()
    dead = play.world.deployment.serving(NEW)[0]
    play.world.died(dead)
    play.world.step()
    play.look()
    assert (play.rollout.bp, play.rollout.reason_code, play.rollout.step) == (3333, "replicas_changed", 0)
    play.up()
    play.look()
    play.look()
    assert (play.rollout.bp, play.rollout.step) == (5000, 0)


def test_a_failing_criterion_gives_everything_back_to_the_stable_revision_at_once() -> None:
    play = Play(rolling(surge=1), replicas=3)
    play.up()
    play.look()
    play.up()
    play.evidence = Evidence(requests=100, verdict=FAILED)
    before = len(play.versions)
    play.look()
    assert play.rollout.state == "rolling_back"
    assert len(play.versions) == before + 1
    assert (play.route.arms["control"], play.route.allocations) == (OLD, ())
    play.look()
    play.up()
    assert play.rollout.state == "rolled_back"
    assert play.serving() == (3, 1)


def test_minimum_requests_hold_a_batch_until_it_has_passed() -> None:
    play = Play(rolling(surge=1, criteria=SuccessCriteria(minimum_requests=50)), replicas=3)
    play.up()
    play.look()
    play.look()
    not_yet = Judgement(
        "not_enough_data", (Finding("minimum_requests", "not_enough_data", reason="7 of 50"),)
    )
    play.evidence = Evidence(requests=7, verdict=not_yet)
    for _ in range(3):
        play.up()
        play.look()
    assert (play.rollout.state, play.rollout.step) == ("analysing", 0)
    assert "7 of 50" in play.rollout.reason
    play.evidence = Evidence(requests=60, verdict=PASSED)
    play.look()
    play.up()
    play.look()
    assert play.rollout.step == 1


def test_a_batch_without_a_request_waits_for_traffic() -> None:
    play = Play(rolling(surge=1, criteria=SuccessCriteria(minimum_requests=50)), replicas=2)
    play.up()
    play.look()
    play.up()
    play.look()
    play.look(61)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "no_data")


def test_replicas_that_do_not_come_up_roll_it_back() -> None:
    play = Play(rolling(surge=1, ready_timeout_s=30), replicas=3)
    play.up()
    play.look()
    for _ in range(3):
        play.look()
    assert play.world.deployment.wanted(play.world.deployment.candidate_revision) == 2  # type: ignore[arg-type]
    play.world.step()
    play.look(31)
    assert (play.rollout.state, play.rollout.reason_code) == ("rolling_back", "candidate_not_ready")
    assert "1 of 2 replicas" in play.rollout.reason


def test_it_goes_on_with_another_number_of_replicas() -> None:
    for number in (2, 5):
        play = Play(rolling(surge=1), replicas=3)
        play.up()
        play.look()
        play.up()
        play.world.deployment, _ = mechanics.scale(play.world.deployment, number)
        roll(play)
        assert play.rollout.state == "succeeded"
        play.up()
        assert play.serving() == (0, number)


def test_a_person_promotes_the_next_batch_once_the_replicas_serve() -> None:
    play = Play(rolling(surge=1, criteria=SuccessCriteria(minimum_requests=50)), replicas=2)
    play.up()
    play.look()
    with pytest.raises(Refused) as error:
        play.do(commands.promote, 5000)
    assert error.value.code == "share_follows_replicas"
    play.do(commands.promote, None)
    with pytest.raises(Refused) as error:
        play.do(commands.promote, None)
    assert error.value.code == "candidate_not_ready"
    play.up()
    play.look()
    play.look()
    assert play.rollout.step == 1
    play.do(commands.promote, None)
    assert (play.rollout.state, play.rollout.bp) == ("promoting", 10_000)


def test_with_a_window_the_old_revision_comes_back_warm_and_can_be_switched_back_to() -> None:
    play = Play(rolling(surge=1, rollback_window_s=60), replicas=2)
    for _ in range(20):
        play.look()
        play.up()
        if play.rollout.state == "promoting":
            break
    play.up()
    assert play.serving() == (2, 2)
    play.look()
    play.evidence = Evidence(requests=100, verdict=FAILED)
    play.look()
    assert play.route.arms["control"] == OLD
    play.look()
    assert play.rollout.state == "rolled_back"


def test_one_replica_without_one_over_is_refused() -> None:
    with pytest.raises(Invalid, match="nobody would serve") as error:
        Play(rolling(unavailable=1), replicas=1)
    assert error.value.code == "invalid_rollout"


def test_a_candidate_that_never_comes_up_leaves_the_stable_revision_whole() -> None:
    play = Play(rolling(unavailable=1, ready_timeout_s=30), replicas=3)
    play.look(31)
    assert (play.rollout.state, play.rollout.reason_code) == ("failed", "candidate_not_ready")
    play.up()
    assert play.serving() == (3, 0)
