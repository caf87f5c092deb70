"""Blue-green, rolling and shadow rollouts on a real Kafka and Postgres, with real processes and windows by hand."""

from __future__ import annotations

from typing import Any

import pytest

from phantom.deployer.v1 import rollout_pb2
from phantom.deployer.v1 import rollout_service_pb2 as pb
from phantom_contracts.events.deployer import RouteRecord
from phantom_contracts.events.monitor import Agreement
from phantom_deployer.tests.gateways import SimulatedGateway
from phantom_deployer.tests.hand_monitor import LENGTH, HandMonitor, Traffic, first_window
from phantom_deployer.tests.test_rollouts_end_to_end import at_step, begin, create, get, in_state, when
from phantom_deployer.tests.whole import Control, refused
from phantom_platform.kafka import Producer
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.integration


def blue_green(window_s: float = 5, **fields: Any) -> rollout_pb2.RolloutSpec:
    return rollout_pb2.RolloutSpec(
        strategy="blue_green",
        rollback_window_s=window_s,
        criteria=rollout_pb2.SuccessCriteria(error_rate_threshold=0.05),
        **({"auto_rollback": rollout_pb2.AutoRollback(enabled=True, failure_threshold=1)} | fields),
    )


async def routes(control: Control, name: str, first: int, last: int) -> list[RouteRecord]:
    return [await control.route(name, version) for version in range(first, last + 1)]


async def test_blue_green_switches_at_once_keeps_the_old_one_warm_and_lets_it_go(
    control: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    rollout = await begin(control, "bg", blue_green())
    found = await at_step(control, rollout.rollout_id, 1)
    assert (found.state, found.current_percentage) == ("promoting", 100)
    before, after = await routes(control, "bg", found.route_version - 1, found.route_version)
    assert (before.arms["control"], before.allocations) == (found.stable, ())
    assert after.arms == {"control": found.candidate}
    assert {len(each.replicas) for each in after.revisions} == {1}
    deployment = await control.get("bg")
    assert (deployment.stable.revision, deployment.standby.revision) == (found.candidate, found.stable)
    assert (deployment.standby.phase, deployment.standby.wanted_replicas) == ("standby", 1)
    # A second deployer finds it as it was left.
    await control.stop()
    await control.start()
    assert (await get(control, rollout.rollout_id)).state == "promoting"
    await HandMonitor(producer, "bg").serve(found, Traffic())
    ended = await in_state(control, rollout.rollout_id, "succeeded")
    assert ended.reason_code == "completed"

    async def is_gone() -> bool:
        now = await control.get("bg")
        return not now.standby.revision and not now.withdrawing

    await until(is_gone, within_s=20)
    assert (await control.get("bg")).stable.model_version == "1.2.0"


async def test_blue_green_goes_back_in_one_route_version_when_the_window_shows_errors(
    control: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    rollout = await begin(control, "bgbad", blue_green(20))
    found = await at_step(control, rollout.rollout_id, 1)
    error = await refused(create(control, "bgbad", blue_green(), "1.3.0"))
    assert error.code == "rollout_live"
    await HandMonitor(producer, "bgbad").serve(found, Traffic(error_rate=0.5), windows=3)
    ended = await in_state(control, rollout.rollout_id, "rolled_back")
    assert ended.fired_criterion == "error_rate_threshold"
    back = ended.transitions[-2]
    assert (back.to_state, back.route_version) == ("rolling_back", found.route_version + 1)
    route = await control.route("bgbad", back.route_version)
    assert (route.arms["control"], route.allocations) == (found.stable, ())
    assert {each.id: each.pinnable for each in route.revisions} == {
        found.stable: True,
        found.candidate: False,
    }
    deployment = await control.get("bgbad")
    assert (deployment.stable.model_version, deployment.candidate.phase) == ("1.1.0", "rolled_back")
    assert not deployment.standby.revision


async def test_rolling_replaces_replica_by_replica(control: Control, gateway: SimulatedGateway) -> None:
    await control.deploy("roll", replicas=3)
    await control.ready("roll")
    plan = rollout_pb2.RollingPlan(max_surge=1)
    spec = rollout_pb2.RolloutSpec(strategy="rolling", rolling=plan, rollback_window_s=0)
    rollout = await create(control, "roll", spec)
    first = (await control.get("roll")).route_version
    ended = await in_state(control, rollout.rollout_id, "succeeded")
    shares = [each.percentage for each in ended.transitions if each.to_state == "progressing"]
    assert shares == sorted(shares)
    assert {33.33, 66.67, 75.0} <= set(shares)
    serving = [
        sum(len(revision.replicas) for revision in route.revisions)
        for route in await routes(control, "roll", first, ended.route_version)
    ]
    assert min(serving) >= 3

    async def is_whole() -> bool:
        now = await control.get("roll")
        return now.phase == "ready" and not now.withdrawing and len(now.stable.replicas) == 3

    await until(is_whole, within_s=20)
    assert (await control.get("roll")).stable.model_version == "1.2.0"


async def test_a_rolling_rollout_of_a_broken_version_leaves_all_old_replicas(
    control: Control, gateway: SimulatedGateway
) -> None:
    control.peers.add("2.0.0", file_name="corrupt.json")
    await control.deploy("rollbad", replicas=2)
    await control.ready("rollbad")
    plan = rollout_pb2.RollingPlan(max_unavailable=1)
    spec = rollout_pb2.RolloutSpec(strategy="rolling", rolling=plan, rollback_window_s=0)
    rollout = await create(control, "rollbad", spec, "2.0.0")
    ended = await in_state(control, rollout.rollout_id, "failed")
    assert ended.reason_code == "corrupt_model"

    async def is_whole() -> bool:
        now = await control.get("rollbad")
        return now.phase == "ready" and len(now.stable.replicas) == 2 and not now.withdrawing

    await until(is_whole, within_s=20)
    alone = rollout_pb2.RolloutSpec(strategy="rolling", rolling=plan)
    await control.deploy("rollone", replicas=1)
    await control.ready("rollone")
    assert (await refused(create(control, "rollone", alone))).code == "invalid_rollout"


async def test_a_shadow_gets_copies_is_compared_and_removed(
    control: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    plan = rollout_pb2.ShadowPlan(percentage=25, duration_s=5, min_agreement=0.9)
    rollout = await begin(control, "shade", rollout_pb2.RolloutSpec(strategy="shadow", shadow=plan))
    found = await when(control, rollout.rollout_id, lambda each: each.HasField("step_started_at"))
    route = await control.route("shade")
    assert route.shadow is not None
    assert (route.shadow.revision, route.shadow.bp, route.allocations) == (found.candidate, 2500, ())
    assert (await control.get("shade")).shadow_percent == 25
    monitor = HandMonitor(producer, "shade")
    start = first_window(found)
    for place in range(4):
        common = {"route_version": found.route_version, "start": start + place * LENGTH}
        await monitor.window(Traffic(latency_ms=10), revision=found.stable, arm="control", **common)
        await monitor.window(
            Traffic(160, latency_ms=20),
            revision=found.candidate,
            arm="shadow",
            decision="shadow",
            agreement=Agreement(compared=160, agreed=159, difference=1.6),
            **common,
        )
    await monitor.closed(start + 4 * LENGTH)
    ended = await in_state(control, rollout.rollout_id, "succeeded")
    report = ended.shadow
    assert (report.compared % 160, report.failed) == (0, 0)
    assert report.compared >= 320
    assert report.agreement == pytest.approx(159 / 160)
    assert 0.9 < report.agreement_lower < report.agreement < report.agreement_upper < 1
    assert report.mean_score_difference == pytest.approx(0.01)
    assert report.latency_p95_ms == pytest.approx(20, rel=0.02)
    assert report.stable_latency_p95_ms == pytest.approx(10, rel=0.02)
    assert (await control.route("shade")).shadow is None
    deployment = await control.get("shade")
    assert (deployment.stable.model_version, deployment.candidate.revision) == ("1.1.0", "")


async def test_a_shadow_that_is_rolled_back_ends(control: Control, gateway: SimulatedGateway) -> None:
    plan = rollout_pb2.ShadowPlan(percentage=100)
    rollout = await begin(control, "shadeoff", rollout_pb2.RolloutSpec(strategy="shadow", shadow=plan))
    await when(control, rollout.rollout_id, lambda each: each.HasField("step_started_at"))
    await control.rollouts.RollBackRollout(pb.RollBackRolloutRequest(rollout_id=rollout.rollout_id))
    ended = await in_state(control, rollout.rollout_id, "rolled_back")
    assert "acknowledged by every gateway" in ended.reason
    assert (await control.route("shadeoff")).shadow is None
