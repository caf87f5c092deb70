"""The whole deployer on a real Kafka and Postgres, with real processes, and gateways that speak to it by Kafka."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from phantom.deployer.v1 import deployer_service_pb2 as pb
from phantom.deployer.v1.deployer_service_pb2_grpc import DeployerServiceStub
from phantom_contracts import topics
from phantom_contracts.events.deployer import RouteRecord
from phantom_contracts.events.experiment import ExperimentsRecord, Gate, RunningExperiment
from phantom_deployer.tests.gateways import SimulatedGateway
from phantom_deployer.tests.whole import Control, refused
from phantom_platform.kafka import Producer
from phantom_platform.rpc.client import control_channel, from_rpc_error
from phantom_platform.testing.audit import assert_audited
from phantom_platform.testing.events import publish, record
from phantom_platform.testing.identity import FixedToken
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.integration


async def safe_until(
    control: Control,
    key: str,
    condition: Callable[[], Any],
    *gateways: SimulatedGateway,
    within_s: float = 20.0,
) -> None:
    """Until the condition, while no replica is told to stop that a living gateway may send to."""

    async def check() -> Any:
        told = control.drained()
        for gateway in gateways:
            wrong = told & gateway.may_use(key) if gateway.is_alive else set()
            assert not wrong, f"{gateway.boot_id} may send to {wrong}"
        return condition()

    await until(check, within_s=within_s, every_s=0.05)


async def old_replica(control: Control, name: str) -> str:
    return (await control.get(name)).stable.replicas[0].replica_id


async def held_up(control: Control, name: str, gateway: SimulatedGateway, old: str) -> Any:
    """Once the deployer says that it waits for the gateway, it goes on waiting."""

    async def says_so() -> Any:
        found = await control.get(name)
        reasons = [replica.reason for each in found.withdrawing for replica in each.replicas]
        return found if any(gateway.boot_id in reason for reason in reasons) else None

    found = await until(says_so)
    # Absence has no condition: two looks at the end of route-acks, either of which might have let it go on.
    await asyncio.sleep(0.5)
    assert old not in control.drained()
    return found


async def test_a_rollout_waits_for_gateways_and_loses_the_old_revision_last(
    control: Control, gateway: SimulatedGateway
) -> None:
    await control.rollout("whole")
    old = await old_replica(control, "whole")
    answer = await control.stub.SetCanaryWeight(
        pb.SetCanaryWeightRequest(deployment_id="whole", percent=75, wait=True), timeout=20
    )
    assert gateway.applied["default/whole"] >= answer.route_version
    assert answer.deployment.acknowledged_route_version == answer.route_version
    assert answer.deployment.phase == "progressing"
    assert "75 %" in answer.deployment.reason
    assert control.drained() == set()
    completed = await control.complete("whole")
    route = await control.route("whole", completed.route_version)
    assert len(route.revisions) == 2
    await safe_until(control, "default/whole", lambda: old in control.drained(), gateway)
    sent = (control.data_dir / "replicas" / f"{old}.drained").read_bytes()
    told = RouteRecord.model_validate_json(sent)
    assert told.version > completed.route_version
    assert [each.id for each in told.revisions] == ["whole.2"]

    async def is_over() -> bool:
        found = await control.get("whole")
        return found.phase == "ready" and not found.withdrawing

    await until(is_over)


async def test_a_gateway_with_work_under_an_old_version_is_waited_for(
    control: Control, gateway: SimulatedGateway
) -> None:
    await control.rollout("held")
    old = await old_replica(control, "held")
    gateway.is_held = True
    await control.complete("held")
    found = await held_up(control, "held", gateway, old)
    assert found.withdrawing[0].replicas[0].phase == "draining"
    gateway.is_held = False
    await safe_until(control, "default/held", lambda: old in control.drained(), gateway)


async def test_a_killed_gateway_delays_a_withdrawal_by_about_ten_seconds(
    control: Control, gateway: SimulatedGateway, kafka_bootstrap: str, producer: Producer
) -> None:
    victim = await SimulatedGateway(kafka_bootstrap, producer).start()
    await control.rollout("killed")
    old = await old_replica(control, "killed")
    victim.is_held = True
    await victim.kill()
    began = time.monotonic()
    await control.complete("killed")
    await safe_until(control, "default/killed", lambda: old in control.drained(), gateway)
    assert 8.0 < time.monotonic() - began < 14.0
    states = {
        each.boot_id: each.state
        for each in (await control.stub.ListGateways(pb.ListGatewaysRequest())).gateways
    }
    assert (states[victim.boot_id], states[gateway.boot_id]) == ("silent", "live")
    await victim.leave()


async def test_a_gateway_that_leaves_is_not_waited_for(
    control: Control, gateway: SimulatedGateway, kafka_bootstrap: str, producer: Producer
) -> None:
    leaver = await SimulatedGateway(kafka_bootstrap, producer).start()
    await control.rollout("left")
    old = await old_replica(control, "left")
    leaver.is_held = True
    await control.complete("left")
    await held_up(control, "left", leaver, old)
    began = time.monotonic()
    await leaver.leave()
    await safe_until(control, "default/left", lambda: old in control.drained(), gateway)
    assert time.monotonic() - began < 5


async def test_a_gateway_that_joins_during_a_withdrawal_is_waited_for(
    control: Control, gateway: SimulatedGateway, kafka_bootstrap: str, producer: Producer
) -> None:
    await control.rollout("joined")
    old = await old_replica(control, "joined")
    gateway.is_held = True
    late = await SimulatedGateway(kafka_bootstrap, producer).start()  # at the version that names both
    late.is_held = True
    await control.complete("joined")
    gateway.is_held = False
    await held_up(control, "joined", late, old)
    newest = await SimulatedGateway(kafka_bootstrap, producer).start()  # at the version without the old one
    late.is_held = False
    await safe_until(control, "default/joined", lambda: old in control.drained(), gateway, late, newest)
    await late.leave()
    await newest.leave()


async def test_a_gateway_cut_off_from_kafka_is_given_up_after_ten_seconds_and_told_by_the_replica(
    control: Control, gateway: SimulatedGateway, kafka_bootstrap: str, producer: Producer
) -> None:
    lost = await SimulatedGateway(kafka_bootstrap, producer).start()
    await control.rollout("cut")
    old = await old_replica(control, "cut")
    await lost.cut_off()
    await control.complete("cut")
    await safe_until(control, "default/cut", lambda: old in control.drained(), gateway)
    # It may still send there, which is why the replica has the last word: the record that it hands on.
    sent = (control.data_dir / "replicas" / f"{old}.drained").read_bytes()
    assert RouteRecord.model_validate_json(sent).version > lost.applied["default/cut"]
    await lost.leave()


async def test_a_deployer_that_restarts_in_the_middle_adopts_replicas_and_waits_on(
    control: Control, gateway: SimulatedGateway
) -> None:
    before = await control.rollout("again")
    old = await old_replica(control, "again")
    gateway.is_held = True
    await control.complete("again")
    await held_up(control, "again", gateway, old)
    await control.stop()
    await control.start()
    await held_up(control, "again", gateway, old)
    gateway.is_held = False
    await safe_until(control, "default/again", lambda: old in control.drained(), gateway)
    after = await control.ready("again")
    pids = [each.pid for each in before.candidate.replicas]
    assert [each.pid for each in after.stable.replicas] == pids


async def test_a_killed_replica_leaves_the_route_and_comes_back_elsewhere(
    control: Control, gateway: SimulatedGateway
) -> None:
    await control.deploy("phoenix", replicas=2)
    found = await control.ready("phoenix")
    victim = found.stable.replicas[0]
    os.kill(victim.pid, signal.SIGKILL)

    async def is_back() -> bool:
        route = await control.route("phoenix")
        now = {each.id: each.address for each in route.revisions[0].replicas}
        return len(now) == 2 and now[victim.replica_id] != victim.address

    await until(is_back)
    after = await control.get("phoenix")
    assert sorted(each.restarts for each in after.stable.replicas) == [0, 1]


async def test_a_corrupt_model_fails_by_name_and_the_old_revision_serves_on(
    control: Control, gateway: SimulatedGateway
) -> None:
    control.peers.add("9.0.0", file_name="corrupt.json")
    await control.deploy("brave")
    await control.ready("brave")
    await control.deploy("brave", "9.0.0", canary_percent=50)

    async def has_failed() -> bool:
        return (await control.get("brave")).candidate.phase == "failed"

    await until(has_failed)
    found = await control.get("brave")
    assert (found.phase, found.candidate_percent) == ("ready", 0)
    assert "not a model" in found.reason
    error = await refused(
        control.stub.SetCanaryWeight(pb.SetCanaryWeightRequest(deployment_id="brave", percent=5))
    )
    assert error.code == "candidate_not_ready"


async def test_a_deleted_deployment_ends_its_route_and_then_its_processes(
    control: Control, gateway: SimulatedGateway
) -> None:
    await control.deploy("gone", replicas=2)
    found = await control.ready("gone")
    await control.stub.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id="gone"))
    told = {each.replica_id for each in found.stable.replicas}
    await safe_until(control, "default/gone", lambda: told <= control.drained(), gateway)

    async def is_gone() -> bool:
        try:
            await control.get("gone")
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await until(is_gone)
    assert gateway.versions["default/gone"][gateway.applied["default/gone"]] == frozenset()


async def test_waiting_ends_with_the_deadline_and_the_change_stays(
    control: Control, gateway: SimulatedGateway, kafka_bootstrap: str, producer: Producer
) -> None:
    await control.rollout("late")
    deaf = await SimulatedGateway(kafka_bootstrap, producer).start()
    await deaf.cut_off()
    error = await refused(
        control.stub.SetCanaryWeight(
            pb.SetCanaryWeightRequest(deployment_id="late", percent=60, wait=True), timeout=2
        )
    )
    assert error.code == "not_acknowledged"
    assert deaf.boot_id in str(error.fields["gateways"])
    assert (await control.get("late")).candidate_percent == 60
    await deaf.leave()


async def test_what_a_running_experiment_uses_stays(
    control: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    await control.rollout("tested")
    running = RunningExperiment(
        id="exp-1",
        version=1,
        gate=Gate(salt="g"),
        salt="s",
        hash_field="user_id",
        arms={"control": "tested.1", "treatment": "tested.2"},
    )
    held = ExperimentsRecord(version=1, endpoint="tested", experiments=(running,))
    await publish(producer, record(topics.EXPERIMENTS, "default/tested", held, version=1))

    async def is_refused() -> bool:
        try:
            await control.stub.RollbackCanary(pb.RollbackCanaryRequest(deployment_id="tested", remove=True))
        except grpc.RpcError as error:
            return from_rpc_error(error).code == "revision_in_experiment"
        raise AssertionError("it was taken away")

    await until(lambda: control.experiments_read("default/tested") == 1)
    assert await is_refused()
    ended = ExperimentsRecord(version=2, endpoint="tested")
    await publish(producer, record(topics.EXPERIMENTS, "default/tested", ended, version=2))

    async def is_removed() -> bool:
        try:
            await control.stub.RollbackCanary(pb.RollbackCanaryRequest(deployment_id="tested", remove=True))
        except grpc.RpcError:
            return False
        return True

    await until(is_removed)


async def test_every_change_is_audited(control: Control) -> None:
    assert control.door is not None
    with assert_audited(control.door.registry):
        await control.stub.CreateEnvironment(pb.CreateEnvironmentRequest(name="production", type="local"))
        await control.deploy("audited", request_id="a1")
        await control.deploy("audited", request_id="a1")
        await control.stub.ScaleDeployment(pb.ScaleDeploymentRequest(deployment_id="audited", replicas=1))
        await control.stub.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id="audited"))


@pytest.mark.parametrize(
    ("fields", "code", "status"),
    [
        ({"shadow": True}, "shadow_unsupported", grpc.StatusCode.FAILED_PRECONDITION),
        ({"version": "0.0.1"}, "version_not_found", grpc.StatusCode.NOT_FOUND),
        ({"version": "0.0.2"}, "schema_missing", grpc.StatusCode.FAILED_PRECONDITION),
        ({"environment": "nowhere"}, "environment_not_found", grpc.StatusCode.NOT_FOUND),
        ({"model_id": "m" * 60, "deployment_id": ""}, "id_too_long", grpc.StatusCode.INVALID_ARGUMENT),
        ({"deployment_id": "No_Good"}, "invalid_id", grpc.StatusCode.INVALID_ARGUMENT),
        ({"canary_percent": 0.001}, "percent_not_representable", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_refusals_of_deploy(
    control: Control, fields: dict[str, Any], code: str, status: grpc.StatusCode
) -> None:
    control.peers.add("0.0.2", schema_json="")
    base = {"model_id": "m", "version": "1.1.0", "environment": "production", "deployment_id": "bad"}
    with pytest.raises(grpc.RpcError) as error:
        await control.stub.Deploy(pb.DeployRequest(**(base | fields)))
    assert error.value.code() is status  # type: ignore[attr-defined]
    assert from_rpc_error(error.value).code == code


async def test_callers_need_the_permission(control: Control) -> None:
    assert control.door is not None
    token = FixedToken(control.issuer.token("bob", "deployments:read"))
    async with control_channel(control.door.address, token) as channel:
        stub: Any = DeployerServiceStub(channel)
        await stub.ListDeployments(pb.ListDeploymentsRequest())
        error = await refused(stub.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id="x")))
    assert (error.code, error.fields["permission"]) == ("permission_missing", "models:deploy")
