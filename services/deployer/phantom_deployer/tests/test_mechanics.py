"""What rollouts do to a deployment: a warm old revision, switching back, a rest of traffic, targets, shadow copies."""

from dataclasses import replace

import pytest

from phantom_deployer.domain import facts, rollout
from phantom_deployer.domain.deployment import Deployment, Shadow
from phantom_deployer.domain.routing import Route, desired_route
from phantom_deployer.domain.status import Look, Status
from phantom_deployer.tests.builders import World, created, model
from phantom_platform.errors import Invalid, Refused

OLD, NEW = "fraud-prod.1", "fraud-prod.2"


def world_with_candidate(replicas: int = 1) -> World:
    world = World(created(replicas=replicas))
    world.until_ready()
    world.deployment = add(world.deployment, "1.1.0")
    world.until_ready()
    return world


def add(deployment: Deployment, version: str) -> Deployment:
    return rollout.add_revision(deployment, model(version), bp=0, vouched=False, entropy="s", used={})[0]


def world_with_standby(replicas: int = 1) -> World:
    world = world_with_candidate(replicas)
    world.deployment, _ = rollout.complete(world.deployment, None, keep=True)
    world.step()
    return world


def phase(deployment: Deployment, revision: str) -> str:
    found = deployment.revision(revision)
    assert found is not None
    return found.phase


def route_of(deployment: Deployment) -> Route:
    route = desired_route(deployment)
    assert route is not None
    return route


def running(world: World, revision: str) -> int:
    return len([each for each in world.deployment.replicas_of(revision) if not each.is_leaving])


def overall(world: World) -> Status:
    return Look(world.deployment, world.now, lambda route, version: None).overall()


# -- standby ---------------------------------------------------------------------------------------------------------


def test_a_kept_revision_stays_warm_and_pinnable_without_traffic_and_the_switch_is_one_route() -> None:
    world = world_with_candidate(replicas=2)
    world.deployment, _ = rollout.set_weight(world.deployment, 10_000)
    world.deployment, happened = rollout.complete(world.deployment, {}, keep=True)
    assert happened == (facts.Completed(NEW, OLD),)
    route = route_of(world.deployment)
    assert route.arms == {"control": NEW}
    assert route.allocations == ()
    assert [(each.revision.id, len(each.replicas), each.is_pinnable) for each in route.revisions] == [
        (OLD, 2, True),
        (NEW, 2, True),
    ]
    world.step()
    assert route_of(world.deployment) == route
    assert phase(world.deployment, OLD) == "standby"


def test_keeping_needs_no_word_of_experiments_and_takes_nothing_from_a_running_one() -> None:
    deployment = world_with_candidate().deployment
    assert rollout.complete(deployment, None, keep=True)[0].standby_revision
    assert rollout.complete(deployment, {OLD: "exp-1"}, keep=True)[0].standby_revision
    with pytest.raises(Refused):
        rollout.complete(deployment, {OLD: "exp-1"})


def test_a_dead_replica_of_a_standby_is_started_again() -> None:
    world = world_with_standby()
    (warm,) = world.deployment.replicas_of(OLD)
    world.died(warm)
    world.step()
    world.advance(1)
    assert [(each.kind, each.replica.id) for each in world.step().effects] == [("launch", warm.id)]
    assert phase(world.deployment, OLD) == "standby"


def test_a_standby_is_scaled_with_the_deployment() -> None:
    world = world_with_standby()
    world.deployment, _ = rollout.scale(world.deployment, 3)
    world.step()
    assert (running(world, OLD), running(world, NEW)) == (3, 3)


def test_switching_back_gives_everything_to_the_standby_in_one_route() -> None:
    world = world_with_standby()
    world.deployment, happened = rollout.switch_back(world.deployment, "log loss rose")
    assert happened == (facts.SwitchedBack(OLD, NEW, "log loss rose"),)
    assert (world.deployment.stable, world.deployment.candidate) == (OLD, NEW)
    assert (phase(world.deployment, OLD), phase(world.deployment, NEW)) == ("ready", "rolled_back")
    route = route_of(world.deployment)
    assert route.arms["control"] == OLD
    assert route.allocations == ()
    assert {each.revision.id: each.is_pinnable for each in route.revisions} == {OLD: True, NEW: False}
    world.step()
    assert route_of(world.deployment) == route
    assert overall(world) == Status("ready", f"{NEW} was rolled back: log loss rose; {OLD} serves")


def test_there_is_nothing_to_switch_back_to_without_a_standby() -> None:
    with pytest.raises(Refused) as error:
        rollout.switch_back(world_with_candidate().deployment, "")
    assert error.value.code == "no_standby"


def test_a_released_standby_is_withdrawn_unless_an_experiment_uses_it() -> None:
    world = world_with_standby()
    with pytest.raises(Refused) as error:
        rollout.release_standby(world.deployment, {OLD: "exp-1"})
    assert error.value.code == "revision_in_experiment"
    world.deployment, _ = rollout.release_standby(world.deployment, {})
    assert phase(world.deployment, OLD) == "withdrawing"
    world.step()
    assert running(world, OLD) == 0
    assert rollout.release_standby(world.deployment, {}) == (world.deployment, ())


def test_no_version_comes_in_while_an_earlier_one_is_kept_warm() -> None:
    with pytest.raises(Refused, match=r"fraud-prod\.1 .*1\.0\.0") as error:
        add(world_with_standby().deployment, "1.2.0")
    assert error.value.code == "standby_live"


def test_deleting_takes_the_standby_too() -> None:
    world = world_with_standby()
    world.deployment, _ = rollout.delete(world.deployment, {})
    assert phase(world.deployment, OLD) == "withdrawing"
    for attempt in (
        lambda: rollout.switch_back(world.deployment, ""),
        lambda: rollout.set_target(world.deployment, NEW, 1),
        lambda: rollout.set_shadow(world.deployment, NEW, 1, "s"),
    ):
        with pytest.raises(Refused) as error:
            attempt()
        assert error.value.code == "deployment_deleting"
    assert rollout.release_standby(world.deployment, None) == (world.deployment, ())


def test_a_standby_is_mentioned() -> None:
    world = world_with_standby()
    kept = f"{OLD} (version 1.0.0) stays warm, to be switched back to"
    assert overall(world) == Status("ready", kept)
    (warm,) = world.deployment.replicas_of(OLD)
    world.died(warm)
    world.step()
    assert overall(world).phase == "ready"
    assert overall(world).reason.startswith(f"{kept}; 0 of 1 replicas of {OLD} are ready")
    revision = world.deployment.standby_revision
    assert revision is not None
    assert Look(world.deployment, world.now, lambda r, v: None).revision(revision).phase == "standby"


# -- a rest of the traffic -------------------------------------------------------------------------------------------


def test_a_rest_stays_on_a_rolled_back_candidate_and_rises_only_with_a_new_rollout() -> None:
    deployment, _ = rollout.set_weight(world_with_candidate().deployment, 5000)
    deployment, happened = rollout.roll_back(deployment, remove=False, reason="errors", used={}, percent=5)
    assert happened == (facts.RolledBack(NEW, "errors"),)
    assert (phase(deployment, NEW), deployment.candidate_bp) == ("rolled_back", 500)
    assert not next(r for r in route_of(deployment).revisions if r.revision.id == NEW).is_pinnable
    with pytest.raises(Refused) as error:
        rollout.set_weight(deployment, 600)
    assert error.value.code == "candidate_rolled_back"
    lowered, _ = rollout.set_weight(deployment, 100)
    assert (phase(lowered, NEW), lowered.candidate_bp) == ("rolled_back", 100)
    again = add(deployment, "1.2.0")
    assert (again.candidate, again.candidate_bp) == ("fraud-prod.3", 0)


def test_a_rest_is_never_more_than_what_it_had_and_nothing_where_it_goes() -> None:
    deployment, _ = rollout.set_weight(world_with_candidate().deployment, 100)
    kept, _ = rollout.roll_back(deployment, remove=False, reason="", used={}, percent=5)
    assert kept.candidate_bp == 100
    gone, _ = rollout.roll_back(deployment, remove=True, reason="", used={}, percent=5)
    assert (gone.candidate, gone.candidate_bp) == ("", 0)
    with pytest.raises(Invalid, match=r"0\.01"):
        rollout.roll_back(deployment, remove=False, reason="", used={}, percent=0.001)


def test_the_rest_is_mentioned() -> None:
    world = world_with_candidate()
    world.deployment, _ = rollout.set_weight(world.deployment, 5000)
    world.deployment, _ = rollout.roll_back(
        world.deployment, remove=False, reason="errors", used={}, percent=5
    )
    assert overall(world).reason == f"{NEW} was rolled back: errors; {OLD} serves, {NEW} keeps 5 %"


# -- targets ---------------------------------------------------------------------------------------------------------


def test_a_revision_with_a_target_has_so_many_replicas_and_is_ready_once_they_are() -> None:
    world = World(created(replicas=3))
    world.until_ready()
    world.deployment, _ = rollout.set_target(add(world.deployment, "1.1.0"), NEW, 1)
    world.step()
    assert (running(world, OLD), running(world, NEW)) == (3, 1)
    assert phase(world.deployment, NEW) == "pending"
    world.until_ready()
    assert phase(world.deployment, NEW) == "ready"
    assert NEW in {each.revision.id for each in route_of(world.deployment).revisions}
    assert world.facts[-1] == facts.BecameReady(NEW, "1 of 1 replicas are ready")


def test_a_revision_that_is_to_have_none_yet_is_not_ready() -> None:
    world = World(created())
    world.until_ready()
    world.deployment, _ = rollout.set_target(add(world.deployment, "1.1.0"), NEW, 0)
    world.until_ready()
    assert (running(world, NEW), phase(world.deployment, NEW)) == (0, "pending")


def test_replicas_follow_a_target_up_and_down_and_back_to_all() -> None:
    world = world_with_candidate(replicas=3)
    for target, expected in ((1, 1), (0, 0), (2, 2), (None, 3)):
        world.deployment, _ = rollout.set_target(world.deployment, OLD, target)
        world.step()
        assert running(world, OLD) == expected
    assert phase(world.deployment, OLD) == "ready"


def test_fewer_replicas_than_the_full_number_are_no_degradation_where_they_are_the_target() -> None:
    world = world_with_candidate(replicas=2)
    world.deployment, _ = rollout.set_target(world.deployment, OLD, 1)
    world.step()
    assert overall(world).phase == "progressing"


def test_scaling_down_brings_a_target_down_and_scaling_up_leaves_it() -> None:
    deployment, _ = rollout.set_target(world_with_candidate(replicas=4).deployment, NEW, 3)
    assert rollout.scale(deployment, 8)[0].candidate_revision.target == 3  # type: ignore[union-attr]
    assert rollout.scale(deployment, 2)[0].candidate_revision.target == 2  # type: ignore[union-attr]


def test_completing_and_rolling_back_give_the_stable_revision_its_full_number() -> None:
    world = world_with_candidate(replicas=3)
    deployment, _ = rollout.set_target(world.deployment, NEW, 1)
    deployment, _ = rollout.set_target(deployment, OLD, 2)
    for after in (
        rollout.complete(deployment, {})[0],
        rollout.complete(deployment, {}, keep=True)[0],
        rollout.roll_back(deployment, remove=True, reason="", used={})[0],
    ):
        assert after.stable_revision is not None
        assert after.wanted(after.stable_revision) == 3
        assert after.standby_revision is None or after.wanted(after.standby_revision) == 3


def test_a_target_is_of_a_live_revision_and_within_the_deployments_number() -> None:
    deployment = world_with_candidate(replicas=2).deployment
    for number in (-1, 3):
        with pytest.raises(Invalid, match="from 0 to 2") as invalid:
            rollout.set_target(deployment, NEW, number)
        assert invalid.value.code == "target_out_of_range"
    with pytest.raises(Refused) as error:
        rollout.set_target(deployment, "fraud-prod.9", 1)
    assert error.value.code == "revision_not_live"


# -- shadow ----------------------------------------------------------------------------------------------------------


def test_a_shadow_is_a_candidate_without_a_share_that_the_route_copies_to() -> None:
    world = world_with_candidate()
    world.deployment, happened = rollout.set_shadow(world.deployment, NEW, 2000, "s-1")
    assert happened == (facts.ShadowSet(NEW, 2000, 0),)
    route = route_of(world.deployment)
    assert (route.shadow, route.allocations) == (Shadow(NEW, "s-1", 2000), ())
    assert rollout.set_shadow(world.deployment, NEW, 2000, "s-1") == (world.deployment, ())
    words = f"{NEW} (version 1.1.0) answers copies of 20 % for nobody"
    assert overall(world) == Status("progressing", words)
    world.deployment, happened = rollout.clear_shadow(world.deployment)
    assert happened == (facts.ShadowSet(NEW, 0, 2000),)
    assert route_of(world.deployment).shadow is None
    assert rollout.clear_shadow(world.deployment) == (world.deployment, ())


def test_a_shadow_gets_no_traffic_and_is_not_completed() -> None:
    deployment, _ = rollout.set_shadow(world_with_candidate().deployment, NEW, 2000, "s-1")
    for attempt in (
        lambda: rollout.set_weight(deployment, 100),
        lambda: rollout.complete(deployment, {}),
    ):
        with pytest.raises(Refused) as error:
            attempt()
        assert error.value.code == "candidate_is_shadow"


def test_rolling_a_shadow_back_or_deleting_its_deployment_ends_the_copies() -> None:
    deployment, _ = rollout.set_shadow(world_with_candidate().deployment, NEW, 2000, "s-1")
    assert rollout.roll_back(deployment, remove=True, reason="", used={})[0].shadow is None
    assert rollout.roll_back(deployment, remove=False, reason="", used={})[0].shadow is None
    assert rollout.delete(deployment, {})[0].shadow is None


def test_only_a_ready_candidate_without_traffic_can_be_a_shadow() -> None:
    deployment = world_with_candidate().deployment
    weighed, _ = rollout.set_weight(deployment, 100)
    rolled_back, _ = rollout.roll_back(deployment, remove=False, reason="", used={})
    for given, revision, code in (
        (weighed, NEW, "candidate_has_traffic"),
        (replace(deployment, pending_bp=100), NEW, "candidate_has_traffic"),
        (rolled_back, NEW, "candidate_has_traffic"),
        (deployment, OLD, "revision_not_live"),
        (add(rolled_back, "1.2.0"), "fraud-prod.3", "candidate_not_ready"),
    ):
        with pytest.raises(Refused) as error:
            rollout.set_shadow(given, revision, 2000, "s-1")
        assert error.value.code == code
    for bp in (0, 10_001):
        with pytest.raises(Invalid):
            rollout.set_shadow(deployment, NEW, bp, "s-1")
