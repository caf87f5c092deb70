"""The door of rollouts, and what goes wrong around them, on a real Kafka and Postgres with real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import pytest_asyncio

from phantom.deployer.v1 import rollout_pb2
from phantom.deployer.v1 import rollout_service_pb2 as pb
from phantom_deployer.tests.gateways import SimulatedGateway
from phantom_deployer.tests.hand_monitor import HandMonitor, Traffic, first_window
from phantom_deployer.tests.test_rollouts_end_to_end import at_step, begin, canary, create, get, in_state
from phantom_deployer.tests.whole import Control, refused
from phantom_platform.kafka import Producer
from phantom_platform.testing.audit import assert_audited

pytestmark = pytest.mark.integration

PATIENT = {"ready_timeout_s": 60.0}


@pytest_asyncio.fixture(loop_scope="session")
async def hurried(control: Control) -> AsyncIterator[Control]:
    """Takes 4 s of silence for no metrics."""
    usual = control.settings
    await control.stop()
    control.settings = usual.model_copy(update={"evidence_timeout_s": 4.0})
    await control.start()
    yield control
    await control.stop()
    control.settings = usual
    await control.start()


async def test_a_server_that_never_is_ready_fails_the_rollout_and_leaves_traffic_alone(
    control: Control,
) -> None:
    control.peers.add("9.0.0", file_name="slow.json")
    await control.deploy("slow", replicas=1)
    await control.ready("slow")
    route = await control.route("slow")
    rollout = await create(control, "slow", canary(ready_timeout_s=2.0), "9.0.0")
    ended = await in_state(control, rollout.rollout_id, "failed")
    assert ended.reason_code == "candidate_not_ready"
    assert "was not ready within 2 s" in ended.reason
    assert [each.to_state for each in ended.transitions] == ["pending", "failed"]
    now = await control.route("slow")
    assert (now.arms, now.allocations) == (route.arms, ())
    # A new one may begin.
    assert (await create(control, "slow", canary(**PATIENT))).state == "pending"


async def test_a_model_that_cannot_be_loaded_fails_it_with_the_servers_own_code(control: Control) -> None:
    control.peers.add("9.1.0", file_name="corrupt.json")
    await control.deploy("corrupt", replicas=1)
    await control.ready("corrupt")
    rollout = await create(control, "corrupt", canary(), "9.1.0")
    ended = await in_state(control, rollout.rollout_id, "failed")
    assert ended.reason_code == "corrupt_model"
    assert "not a model" in ended.reason


async def test_when_metrics_stop_it_pauses_and_goes_on_when_they_are_back(
    hurried: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    rollout = await begin(hurried, "silent", canary(50, 50))
    found = await at_step(hurried, rollout.rollout_id, 1)
    monitor = HandMonitor(producer, "silent")
    await monitor.closed(first_window(found))
    paused = await in_state(hurried, rollout.rollout_id, "paused")
    assert paused.reason_code == "metrics_unavailable"
    assert paused.current_percentage == 50
    async with speaking(monitor):
        found = await at_step(hurried, rollout.rollout_id, 1)
        assert found.transitions[-1].reason_code == "metrics_available"
        await monitor.serve(found, Traffic())
        await in_state(hurried, rollout.rollout_id, "promoting")


@asynccontextmanager
async def speaking(monitor: HandMonitor) -> AsyncIterator[None]:
    """It says every half second that it knows everything up to now."""

    async def speak() -> None:
        while True:
            await monitor.closed(datetime.now(UTC))
            await asyncio.sleep(0.5)

    task = asyncio.create_task(speak())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_deployer_that_is_replaced_in_a_step_goes_on(
    control: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    rollout = await begin(control, "replaced", canary(50, 50, rollback_window_s=0.0))
    found = await at_step(control, rollout.rollout_id, 1)
    await control.stop()
    await HandMonitor(producer, "replaced").serve(found, Traffic())
    await control.start()
    ended = await in_state(control, rollout.rollout_id, "succeeded")
    assert [each.to_state for each in ended.transitions] == [
        "pending",
        "progressing",
        "promoting",
        "succeeded",
    ]


async def test_an_approval_is_asked_for_and_given_once_by_someone_else(
    control: Control, gateway: SimulatedGateway
) -> None:
    spec = canary(approval_required=True, approvers=["ann", "bob", "cid"])
    rollout = await begin(control, "approved", spec)
    await in_state(control, rollout.rollout_id, "waiting_for_approval")

    async def decide(principal: str, *permissions: str) -> Any:
        door = await control.rollouts_as(principal, *permissions)
        return await door.ApproveRollout(
            pb.ApproveRolloutRequest(rollout_id="approved", comment="looks good")
        )

    assert (await refused(decide("bob", "models:deploy"))).code == "permission_missing"
    assert (await refused(decide("ann"))).code == "requester_cannot_approve"
    assert (await refused(decide("dan"))).code == "not_an_approver"
    assert (await decide("bob", "rollouts:approve")).rollout.approved_by == "bob"
    twice = await refused(decide("cid"))
    assert (twice.code, twice.fields["approved_by"]) == ("already_approved", "bob")
    found = await at_step(control, rollout.rollout_id, 1)
    assert [each.actor for each in found.transitions] == ["ann", "deployer", "bob", "deployer"]


async def test_an_approval_that_is_refused_or_never_given_ends_it(control: Control) -> None:
    rollout = await begin(control, "rejected", canary(approval_required=True))
    await in_state(control, rollout.rollout_id, "waiting_for_approval")
    bob = await control.rollouts_as("bob")
    await bob.RejectRollout(pb.RejectRolloutRequest(rollout_id=rollout.rollout_id, comment="not now"))
    ended = await get(control, rollout.rollout_id)
    assert (ended.state, ended.reason_code) == ("failed", "rejected")
    assert "rejected by bob: not now" in ended.reason
    rollout = await create(control, "rejected", canary(approval_required=True, approval_timeout_s=1.0))
    ended = await in_state(control, rollout.rollout_id, "failed")
    assert ended.reason_code == "approval_expired"
    late = await refused(bob.ApproveRollout(pb.ApproveRolloutRequest(rollout_id=rollout.rollout_id)))
    assert late.code == "approval_expired"


async def test_only_services_act_for_others_who_then_cannot_approve(control: Control) -> None:
    await control.deploy("behalf", replicas=1)
    await control.ready("behalf")
    request = pb.CreateRolloutRequest(
        model_id="m", version="1.2.0", environment="production", deployment_id="behalf",
        spec=canary(approval_required=True), on_behalf_of="dora",
    )  # fmt: skip
    error = await refused(control.rollouts.CreateRollout(request))
    assert error.code == "cannot_act_for_others"
    pipelines = await control.rollouts_as("pipelines")
    rollout = (await pipelines.CreateRollout(request)).rollout
    await in_state(control, rollout.rollout_id, "waiting_for_approval")
    dora = await control.rollouts_as("dora")
    approve = pb.ApproveRolloutRequest(rollout_id=rollout.rollout_id)
    assert (await refused(dora.ApproveRollout(approve))).code == "requester_cannot_approve"


async def test_every_change_of_a_rollout_is_audited_and_repeatable(
    control: Control, gateway: SimulatedGateway
) -> None:
    rollout = await begin(control, "audited-rollout", canary(), request_id="r1")
    assert (
        await create(control, "audited-rollout", canary(), request_id="r1")
    ).rollout_id == rollout.rollout_id
    await at_step(control, rollout.rollout_id, 1)
    door, name = control.rollouts, {"rollout_id": "audited-rollout"}
    assert control.door is not None
    with assert_audited(control.door.registry):
        paused = await door.PauseRollout(pb.PauseRolloutRequest(**name, request_id="p1"))
        again = await door.PauseRollout(pb.PauseRolloutRequest(**name, request_id="p1"))
        assert len(paused.rollout.transitions) == len(again.rollout.transitions)
        await door.ResumeRollout(pb.ResumeRolloutRequest(**name))
        promoted = await door.PromoteRollout(pb.PromoteRolloutRequest(**name, target_percentage=60))
        assert promoted.rollout.current_percentage == 60
        back = await door.RollBackRollout(pb.RollBackRolloutRequest(**name, reason="enough"))
        assert back.rollout.state == "rolling_back"
    ended = await in_state(control, rollout.rollout_id, "rolled_back")
    assert ended.reason.startswith("rolled back by ann: enough")
    error = await refused(door.PromoteRollout(pb.PromoteRolloutRequest(**name)))
    assert error.code == "rollout_ended"
    listed = await door.ListRollouts(pb.ListRolloutsRequest(deployment_id="audited-rollout", live_only=True))
    assert not listed.rollouts


async def test_what_is_wrong_with_a_spec_is_said_field_by_field(control: Control) -> None:
    spec = canary(0, 5, 200, criteria=rollout_pb2.SuccessCriteria(error_rate_threshold=5))
    spec.shadow.percentage = 5
    await control.deploy("wrong", replicas=1)
    with pytest.raises(grpc.RpcError) as error:
        await create(control, "wrong", spec)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    found = await refused(create(control, "wrong", spec))
    assert found.code == "invalid_rollout"
    assert [each.field for each in found.violations] == [
        "spec.shadow",
        "spec.canary.initial_percentage",
        "spec.canary.target_percentage",
        "spec.criteria.error_rate_threshold",
    ]
