from dataclasses import replace
from datetime import timedelta

from phantom_deployer.domain import rollout
from phantom_deployer.domain.acknowledgement import Waiting
from phantom_deployer.domain.deployment import Deployment
from phantom_deployer.domain.status import Look, Status
from phantom_deployer.tests.builders import World, created, model


def look(world: World, seconds: float = 0, waiting: Waiting | None = None) -> Look:
    return Look(world.deployment, world.now + timedelta(seconds=seconds), lambda route, version: waiting)


def with_candidate(world: World) -> Deployment:
    return rollout.add_revision(world.deployment, model("1.1.0"), bp=0, vouched=False, entropy="s", used={})[
        0
    ]


def test_pending_says_which_replica_starts_for_how_long() -> None:
    world = World(created(replicas=2))
    assert look(world).revision(world.deployment.revisions[0]).phase == "pending"
    world.step()
    world.runs(world.replica())
    world.step()
    overall = look(world, 3).overall()
    assert overall.phase == "pending"
    assert overall.reason.startswith("1 of 2 replicas of fraud-prod.1 are ready; replica ")
    assert overall.reason.endswith("starting: starting for 3 s")
    assert look(world).revision(world.deployment.revisions[0]).phase == "starting"


def test_ready_has_nothing_to_say() -> None:
    world = World(created())
    world.until_ready()
    assert look(world).overall() == Status("ready")
    assert look(world).replica(world.replica()) == Status("ready")


def test_degraded_says_what_died_and_when_it_starts_again() -> None:
    world = World(created(replicas=2))
    world.until_ready()
    world.died(world.replica(), error_code="process_ended", error_message="signal 9")
    world.step()
    overall = look(world).overall()
    assert overall.phase == "degraded"
    assert "signal 9" in overall.reason
    assert "starts again in 0.5 s" in overall.reason


def test_progressing_tells_the_share() -> None:
    world = World(created())
    world.until_ready()
    world.deployment = with_candidate(world)
    assert look(world).overall().phase == "progressing"
    world.until_ready()
    world.deployment, _ = rollout.set_weight(world.deployment, 1250)
    assert look(world).overall() == Status("progressing", "fraud-prod.2 (version 1.1.0) has 12.5 %")


def test_a_rolled_back_candidate_is_mentioned_and_the_deployment_ready() -> None:
    world = World(created())
    world.until_ready()
    world.deployment = with_candidate(world)
    world.until_ready()
    world.deployment, _ = rollout.roll_back(world.deployment, remove=False, reason="errors", used={})
    assert look(world).overall() == Status(
        "ready", "fraud-prod.2 was rolled back: errors; fraud-prod.1 serves"
    )


def test_a_leaving_replica_says_whom_it_waits_for() -> None:
    world = World(created())
    world.until_ready()
    leaving = replace(world.replica(), is_leaving=True, departures=(("default/fraud-prod", 5),))
    world.deployment = world.deployment.with_process(leaving)
    waiting = Waiting("waiting for gateway g1 to drain route 5")
    assert look(world, waiting=waiting).replica(leaving) == Status("draining", waiting.reason)
    assert look(world).replica(leaving).reason == "about to be told to stop"
    assert look(world).replica(replace(leaving, is_routed=True)).reason == "about to leave the route"
    told = replace(leaving, drain_sent_at=world.now)
    assert look(world, 2).replica(told).reason == "told to stop 2.0 s ago"


def test_failed_and_deleting() -> None:
    world = World(created())
    world.step()
    for _ in range(2):
        world.died(
            world.replica(), error_code="corrupt_model", error_message="not a model", is_permanent=True
        )
        world.step()
        world.advance(2)
        world.step()
    assert look(world).overall() == Status("failed", "not a model (after 2 starts)")
    world.deployment, _ = rollout.delete(world.deployment, {})
    assert look(world).overall().phase == "deleting"
