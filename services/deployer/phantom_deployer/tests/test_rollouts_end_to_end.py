"""Rollouts on a real Kafka and Postgres, with real processes, gateways that follow routes, and windows by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phantom.deployer.v1 import deployer_service_pb2 as deployments
from phantom.deployer.v1 import rollout_pb2
from phantom.deployer.v1 import rollout_service_pb2 as pb
from phantom_deployer.tests.gateways import SimulatedGateway
from phantom_deployer.tests.hand_monitor import HandMonitor, Traffic
from phantom_deployer.tests.whole import Control, refused
from phantom_platform.kafka import Producer
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.integration


def canary(
    initial: float = 10.0,
    increment: float = 45.0,
    target: float = 100.0,
    *,
    auto_rollback: rollout_pb2.AutoRollback | None = None,
    criteria: rollout_pb2.SuccessCriteria | None = None,
    **fields: Any,
) -> rollout_pb2.RolloutSpec:
    plan = rollout_pb2.CanaryPlan(
        initial_percentage=initial,
        target_percentage=target,
        increment_percentage=increment,
        interval_s=5,
    )
    return rollout_pb2.RolloutSpec(
        strategy="canary",
        canary=plan,
        criteria=criteria or rollout_pb2.SuccessCriteria(minimum_requests=100),
        auto_rollback=auto_rollback or rollout_pb2.AutoRollback(enabled=True),
        **({"rollback_window_s": 5.0} | fields),
    )


async def begin(control: Control, name: str, spec: rollout_pb2.RolloutSpec, **fields: Any) -> Any:
    """A deployment whose first version serves, and a rollout of its second."""
    await control.deploy(name, replicas=1)
    await control.ready(name)
    return await create(control, name, spec, **fields)


async def create(
    control: Control, name: str, spec: rollout_pb2.RolloutSpec, version: str = "1.2.0", **fields: Any
) -> Any:
    request = pb.CreateRolloutRequest(
        model_id="m", version=version, environment="production", deployment_id=name, spec=spec, **fields
    )
    return (await control.rollouts.CreateRollout(request)).rollout


async def get(control: Control, rollout_id: str) -> Any:
    return (await control.rollouts.GetRollout(pb.GetRolloutRequest(rollout_id=rollout_id))).rollout


async def when(control: Control, rollout_id: str, condition: Callable[[Any], Any]) -> Any:
    """The rollout, once that holds."""

    async def look() -> Any:
        found = await get(control, rollout_id)
        return found if condition(found) else None

    try:
        return await until(look, within_s=25, every_s=0.1)
    except AssertionError as error:
        raise AssertionError(f"{await get(control, rollout_id)}") from error


async def at_step(control: Control, rollout_id: str, step: int) -> Any:
    """Its clock runs."""
    return await when(
        control,
        rollout_id,
        lambda each: each.step == step and each.state != "paused" and each.HasField("step_started_at"),
    )


async def in_state(control: Control, rollout_id: str, state: str) -> Any:
    return await when(control, rollout_id, lambda each: each.state == state)


async def test_a_good_version_goes_to_all_traffic_by_itself(
    control: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    rollout = await begin(control, "good", canary())
    assert (rollout.state, rollout.steps, rollout.step) == ("pending", 3, 0)
    monitor = HandMonitor(producer, "good")
    for step, share in ((1, 10), (2, 55), (3, 100)):
        found = await at_step(control, rollout.rollout_id, step)
        assert found.current_percentage == share
        assert gateway.applied["default/good"] >= found.route_version
        await monitor.serve(found, Traffic(error_rate=0.01), Traffic(error_rate=0.01))
    ended = await in_state(control, rollout.rollout_id, "succeeded")
    deployment = await control.get("good")
    assert deployment.stable.model_version == "1.2.0"
    assert [each.to_state for each in ended.transitions] == [
        "pending", "progressing", "progressing", "promoting", "succeeded",
    ]  # fmt: skip
    assert [each.percentage for each in ended.transitions] == [0, 10, 55, 100, 100]
    assert ended.requests == 3 * 640


async def test_a_version_with_more_errors_is_rolled_back_in_one_route_version(
    control: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    rollout = await begin(control, "bad", canary())
    found = await at_step(control, rollout.rollout_id, 1)
    monitor = HandMonitor(producer, "bad")
    await monitor.serve(found, Traffic(6400, error_rate=0.08), Traffic(64000, error_rate=0.01))
    ended = await in_state(control, rollout.rollout_id, "rolled_back")
    assert ended.fired_criterion == "error_rate"
    back = ended.transitions[-2]
    assert (back.to_state, back.reason_code) == ("rolling_back", "criterion_failed")
    assert back.route_version == found.route_version + 1
    assert "acknowledged by every gateway" in ended.reason
    route = await control.route("bad", back.route_version)
    assert route.allocations == ()
    deployment = await control.get("bad")
    assert deployment.stable.model_version == "1.1.0"
    assert deployment.candidate.phase == "rolled_back"


async def test_manual_changes_of_shares_are_refused_while_a_rollout_is_live(
    control: Control, gateway: SimulatedGateway
) -> None:
    rollout = await begin(control, "mine", canary())
    stub = control.stub
    for call in (
        stub.SetCanaryWeight(deployments.SetCanaryWeightRequest(deployment_id="mine", percent=5)),
        stub.CompleteRollout(deployments.CompleteRolloutRequest(deployment_id="mine")),
        stub.RollbackCanary(deployments.RollbackCanaryRequest(deployment_id="mine")),
        control.deploy("mine", "1.3.0"),
        create(control, "mine", canary(), "1.3.0"),
    ):
        error = await refused(call)
        assert error.code == "rollout_live"
        assert rollout.rollout_id in error.message
    await stub.DeleteDeployment(deployments.DeleteDeploymentRequest(deployment_id="mine"))
    ended = await get(control, rollout.rollout_id)
    assert (ended.state, ended.reason_code) == ("failed", "deployment_deleted")
