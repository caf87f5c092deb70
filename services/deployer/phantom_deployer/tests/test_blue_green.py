"""Blue-green rollouts, look by look."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from phantom_deployer.domain.rollouts import commands
from phantom_deployer.domain.rollouts.spec import (
    AutoRollback,
    BlueGreenPlan,
    RolloutSpec,
)
from phantom_deployer.domain.rollouts.turn import Evidence
from phantom_deployer.tests.plays import FAILED, NEW, OLD, PASSED, Play
from phantom_platform.errors import Refused


def blue_green(window_s: float = 60, **changes: object) -> RolloutSpec:
    return replace(RolloutSpec("blue_green", rollback_window_s=window_s), **changes)  # type: ignore[arg-type]


def switched(window_s: float = 60, **changes: object) -> Play:
    play = Play(blue_green(window_s, **changes))
    play.up()
    play.look()
    play.look()
    assert play.rollout.state == "promoting"
    return play


def test_blue_green_switches_in_one_route_version_and_keeps_the_old_one_warm() -> None:
    play = Play(blue_green(), replicas=2)
    play.look()
    assert (play.rollout.state, play.world.deployment.candidate) == ("pending", NEW)
    play.up()
    before = len(play.versions)
    assert play.route.arms == {"control": OLD, "candidate": NEW}
    assert play.route.allocations == ()
    play.look()
    assert len(play.versions) == before + 1
    assert play.route.arms == {"control": NEW}
    assert [(each.revision.id, len(each.replicas)) for each in play.route.revisions] == [(OLD, 2), (NEW, 2)]
    assert (play.rollout.state, play.rollout.bp) == ("promoting", 10_000)


def test_blue_green_lets_the_old_one_go_once_the_window_is_over() -> None:
    play = switched()
    play.evidence = Evidence(requests=100, verdict=PASSED)
    play.look(30)
    assert play.rollout.state == "promoting"
    play.look(40)
    assert (play.rollout.state, play.rollout.reason_code) == ("succeeded", "completed")
    assert "60 s after the switch" in play.rollout.reason
    play.up()
    assert play.serving() == (0, 1)
    assert play.world.deployment.candidate == ""


def test_a_failure_in_the_window_switches_back_in_one_route_version() -> None:
    play = switched()
    before = len(play.versions)
    play.evidence = Evidence(requests=100, verdict=FAILED)
    play.acknowledged = False
    play.look()
    assert len(play.versions) == before + 1
    assert play.route.arms["control"] == OLD
    assert play.route.allocations == ()
    assert (play.rollout.state, play.rollout.fired) == ("rolling_back", "error_rate_threshold")
    play.look()
    assert play.rollout.state == "rolling_back"
    play.acknowledged = True
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("rolled_back", "criterion_failed")
    assert play.world.deployment.candidate_revision.phase == "rolled_back"  # type: ignore[union-attr]


def test_a_failure_only_pauses_where_rollbacks_are_not_automatic_and_a_person_can_roll_back() -> None:
    play = switched(auto_rollback=AutoRollback(enabled=False))
    play.evidence = Evidence(requests=100, verdict=FAILED)
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "criterion_failed")
    assert play.route.arms["control"] == NEW
    play.do(commands.roll_back, "seen it")
    assert play.route.arms["control"] == OLD
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("rolled_back", "by_user")


def test_without_a_window_the_old_one_goes_once_gateways_follow() -> None:
    play = Play(blue_green(0))
    play.up()
    play.acknowledged = False
    play.look()
    play.look()
    assert play.rollout.state == "promoting"
    play.acknowledged = True
    play.look()
    play.look()
    assert play.rollout.state == "succeeded"


def test_without_a_request_in_the_window_it_waits_for_traffic() -> None:
    play = switched()
    play.look(70)
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "no_data")
    play.evidence = Evidence(requests=5, last_traffic_at=play.world.now + timedelta(seconds=5))
    play.look(10)
    assert (play.rollout.state, play.rollout.reason_code) == ("promoting", "traffic")


def test_it_pauses_before_the_switch_where_asked_to_without_any_traffic() -> None:
    play = Play(blue_green(blue_green=BlueGreenPlan(pause_before_switch=True)))
    play.up()
    play.look()
    play.look()
    assert (play.rollout.state, play.rollout.reason_code) == ("paused", "before_switch")
    assert play.route.arms["control"] == OLD
    play.do(commands.resume)
    assert (play.rollout.state, play.rollout.reason_code) == ("promoting", "by_user")
    assert play.route.arms["control"] == NEW


def test_an_approval_takes_the_place_of_the_pause() -> None:
    play = Play(blue_green(approval_required=True, blue_green=BlueGreenPlan(pause_before_switch=True)))
    play.up()
    play.look()
    assert play.rollout.state == "waiting_for_approval"
    play.actor = "bob"
    play.do(commands.approve, "fine")
    play.look()
    assert play.rollout.state == "promoting"


def test_rolled_back_before_the_switch_no_traffic_ever_moved() -> None:
    play = Play(blue_green(blue_green=BlueGreenPlan(pause_before_switch=True)))
    play.up()
    play.look()
    play.do(commands.roll_back, "changed our minds")
    play.look()
    assert play.rollout.state == "rolled_back"
    assert play.route.arms["control"] == OLD
    assert play.world.deployment.standby_revision is None


def test_promoting_ends_the_window_and_smaller_shares_are_refused() -> None:
    play = switched()
    with pytest.raises(Refused) as error:
        play.do(commands.promote, 5000)
    assert error.value.code == "backwards"
    play.do(commands.promote, None)
    assert (play.rollout.state, play.rollout.reason_code) == ("succeeded", "by_user")


def test_a_successor_takes_over_from_the_old_revision() -> None:
    play = switched()
    play.do(commands.supersede, "1.2.0")
    assert play.rollout.state == "superseded"
    assert (play.world.deployment.stable, play.world.deployment.candidate) == (OLD, "")
    assert play.world.deployment.standby_revision is None


def test_what_an_experiment_uses_stays_warm_until_it_has_ended() -> None:
    play = switched()
    play.evidence = Evidence(requests=100, verdict=PASSED)
    play.world.used = {OLD: "exp-1"}
    with pytest.raises(Refused):
        play.look(70)
    assert play.world.deployment.standby_revision is not None
