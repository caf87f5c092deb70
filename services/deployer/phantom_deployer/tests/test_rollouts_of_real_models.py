"""Rollouts with the model server that is shipped: replays before any traffic, and a switch under traffic."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import xgboost

from phantom.deployer.v1 import deployer_service_pb2 as pb
from phantom.deployer.v1 import rollout_pb2
from phantom.deployer.v1 import rollout_service_pb2 as rollouts_pb
from phantom_contracts import topics
from phantom_contracts.events.deployer import RouteRecord
from phantom_contracts.schema import Feature, ModelSchema, Outcome
from phantom_deployer.tests.gateways import SimulatedGateway
from phantom_deployer.tests.hand_monitor import HandMonitor, Traffic
from phantom_deployer.tests.test_rollouts_end_to_end import at_step, create, get, in_state, when
from phantom_deployer.tests.whole import Control, MakeControl
from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.kafka import Producer, Projection
from phantom_platform.testing.waiting import until
from phantom_probing.client import Client, Target
from phantom_probing.rows import Rows
from phantom_probing.tests.past_calls import Call, GatewayLog

pytestmark = pytest.mark.integration

SCHEMA = ModelSchema(
    features=(Feature(name="amount"), Feature(name="hour")),
    class_labels=("legit", "fraud"),
    outcome=Outcome(field="actual_fraud", type="bool", mapping={"true": "fraud", "false": "legit"}),
)


def rows(count: int, seed: int = 1) -> Rows:
    random = np.random.default_rng(seed)
    return Rows({"amount": random.uniform(0, 100, count), "hour": random.uniform(0, 24, count)}, count)


def train(scale: float) -> bytes:
    """Fraud is what is dear; with another scale than 1, trained on amounts in another unit."""
    known = rows(2000, 2)
    amounts = np.asarray(known.columns["amount"])
    matrix = xgboost.DMatrix(
        np.column_stack([amounts * scale, known.columns["hour"]]),
        amounts > 60,
        feature_names=["amount", "hour"],
    )
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
    return bytes(xgboost.train(parameters, matrix, 10).save_raw("json"))


def keep(control: Control, version: str, content: bytes) -> None:
    """Registered, and in the store."""
    digest = hashlib.sha256(content).hexdigest()
    place = control.data_dir / "artifacts" / "sha256" / digest[:2] / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    control.peers.add(
        version,
        file_name="model.json",
        digest=f"sha256:{digest}",
        size_bytes=len(content),
        schema_json=SCHEMA.model_dump_json(),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def real(make_control: MakeControl) -> Control:
    made = await make_control("phantom_model_server")
    await made.stub.CreateEnvironment(pb.CreateEnvironmentRequest(name="production", type="local"))
    good = train(1.0)
    keep(made, "1.0.0", good)
    keep(made, "1.1.0", good)  # again
    keep(made, "2.0.0", train(0.01))
    return made


async def serving(control: Control, name: str) -> Any:
    await control.deploy(name, "1.0.0", replicas=1)
    return await control.ready(name)


async def log_traffic(control: Control, producer: Producer, name: str, count: int) -> None:
    """Calls of one row, answered by the stable revision, as a gateway logs them; half of the outcomes are known."""
    deployment = await control.get(name)
    asked, log = rows(count, 3), GatewayLog(producer, name, SCHEMA.class_labels)
    calls = []
    async with Client(Target(deployment.stable.replicas[0].address, "m"), SCHEMA) as client:
        for place in range(count):
            one = asked.part(place, place + 1)
            calls.append(Call(one, await client.infer(one), latency_us=5000))
    ids = await log.write(*calls)
    for place in range(0, count, 2):
        await log.report(ids[place], bool(np.asarray(asked.columns["amount"])[place] > 60))


def replayed(requests: int = 300, **fields: Any) -> rollout_pb2.RolloutSpec:
    plan = rollout_pb2.ReplayPlan(requests=requests, **fields)
    return rollout_pb2.RolloutSpec(strategy="blue_green", replay=plan, rollback_window_s=0)


async def allocated(control: Control, name: str, newest: int) -> list[RouteRecord]:
    """Versions of the route in which anybody but the first revision has traffic."""
    found = [await control.route(name, version) for version in range(1, newest + 1)]
    return [each for each in found if each.allocations or each.arms["control"] != f"{name}.1"]


async def test_past_requests_run_through_the_candidate_before_it_gets_any(
    real: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    await serving(real, "same")
    await log_traffic(real, producer, "same", 200)
    spec = replayed(
        150, max_disagreement=0.01, max_distribution_distance=0.1, max_latency_p95_ms=500, quality_margin=0.1
    )
    rollout = await create(real, "same", spec, "1.1.0")
    ended = await in_state(real, rollout.rollout_id, "succeeded")
    report = ended.replay
    assert (report.verdict, report.requests, report.failed, report.disagreement) == ("pass", 150, 0, 0)
    assert report.labelled == 75
    assert report.accuracy == report.served_accuracy > 0.9
    assert 0 < report.latency_p50_ms <= report.latency_p95_ms < 500
    assert report.served_latency_p95_ms == pytest.approx(5, abs=0.1)
    codes = [each.reason_code for each in ended.transitions]
    assert codes.index("replaying") < codes.index("ready")
    assert (await real.get("same")).stable.model_version == "1.1.0"


async def test_a_model_in_another_unit_fails_its_replay_and_never_has_traffic(
    real: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    await serving(real, "cents")
    await log_traffic(real, producer, "cents", 200)
    rollout = await create(real, "cents", replayed(max_disagreement=0.05), "2.0.0")
    ended = await in_state(real, rollout.rollout_id, "failed")
    assert (ended.reason_code, ended.replay.verdict) == ("replay_failed", "fail")
    assert ended.replay.disagreement > 0.2
    assert ended.replay.accuracy < ended.replay.served_accuracy
    assert ended.replay.examples[0].served != ended.replay.examples[0].candidate
    deployment = await real.get("cents")
    assert not await allocated(real, "cents", deployment.route_version)
    assert (deployment.stable.model_version, deployment.candidate.revision) == ("1.0.0", "")


async def test_a_replay_that_a_restart_ends_is_begun_anew_and_its_report_is_kept(
    real: Control, gateway: SimulatedGateway, producer: Producer
) -> None:
    await serving(real, "again")
    await log_traffic(real, producer, "again", 400)
    spec = replayed(max_disagreement=0.01)
    spec.approval_required = True
    rollout = await create(real, "again", spec, "1.1.0")
    await when(real, rollout.rollout_id, lambda each: each.reason_code == "replaying")
    await real.stop()
    await real.start()
    found = await in_state(real, rollout.rollout_id, "waiting_for_approval")
    assert (found.replay.verdict, found.replay.requests) == ("pass", 300)
    await real.stop()
    await real.start()
    assert (await get(real, rollout.rollout_id)).replay == found.replay
    await real.rollouts.RollBackRollout(rollouts_pb.RollBackRolloutRequest(rollout_id=rollout.rollout_id))


async def test_without_past_requests_limits_wait_for_a_person(
    real: Control, gateway: SimulatedGateway
) -> None:
    await serving(real, "fresh")
    rollout = await create(real, "fresh", replayed(max_disagreement=0.01), "1.1.0")
    paused = await in_state(real, rollout.rollout_id, "paused")
    assert (paused.reason_code, paused.replay.verdict) == ("replay_not_judged", "not_enough_data")
    await real.rollouts.ResumeRollout(rollouts_pb.ResumeRolloutRequest(rollout_id=rollout.rollout_id))
    await in_state(real, rollout.rollout_id, "succeeded")


# -- a switch under traffic ------------------------------------------------------------------------------------------


@dataclass
class Caller:
    """Calls the replica that its newest route gives to control, without a pause; a draining one makes it look again."""

    name: str
    route: RouteRecord | None = None
    # (route version, answering model version), in order.
    answers: list[tuple[int, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def call(self, row: Rows) -> None:
        while True:
            route = self.route
            assert route is not None
            revision = route.revision(route.arms["control"])
            assert revision is not None
            target = Target(revision.replicas[0].address, "m")
            try:
                async with Client(target, SCHEMA, timeout_s=5) as client:
                    answer = await client.infer(row)
            except Unavailable:
                await asyncio.sleep(0.01)
                continue
            except PhantomError as error:
                self.errors.append(f"{error.code}: {error}")
                return
            self.answers.append((route.version, answer.model_version))
            return


@asynccontextmanager
async def calling(bootstrap: str, name: str) -> AsyncIterator[Caller]:
    caller = Caller(name)

    def on_changed(key: str, route: RouteRecord, version: int) -> None:
        if key == f"default/{name}":
            caller.route = route

    def on_deleted(key: str, version: int) -> None:
        """None is deleted here."""

    routes = Projection(
        topics.ROUTES,
        bootstrap,
        parse=lambda key, value, headers: RouteRecord.model_validate_json(value),
        on_changed=on_changed,
        on_deleted=on_deleted,
    )
    await routes.start()
    await until(lambda: caller.route is not None)
    row = rows(1)

    async def work() -> None:
        while True:
            await caller.call(row)

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    try:
        yield caller
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await routes.stop()


async def test_under_traffic_a_switch_and_the_way_back_lose_no_call(
    real: Control, gateway: SimulatedGateway, producer: Producer, kafka_bootstrap: str
) -> None:
    await serving(real, "busy")
    spec = rollout_pb2.RolloutSpec(
        strategy="blue_green",
        rollback_window_s=20,
        criteria=rollout_pb2.SuccessCriteria(error_rate_threshold=0.05),
        auto_rollback=rollout_pb2.AutoRollback(enabled=True, failure_threshold=1),
    )
    async with calling(kafka_bootstrap, "busy") as caller:
        await until(lambda: len(caller.answers) > 20)
        rollout = await create(real, "busy", spec, "2.0.0")
        found = await at_step(real, rollout.rollout_id, 1)
        count = len(caller.answers)
        await until(lambda: len(caller.answers) > count + 50)
        await HandMonitor(producer, "busy").serve(found, Traffic(error_rate=0.5), windows=3)
        ended = await in_state(real, rollout.rollout_id, "rolled_back")
        count = len(caller.answers)
        await until(lambda: len(caller.answers) > count + 50)
    assert caller.errors == []
    back = ended.transitions[-2].route_version
    by_route = dict(caller.answers)
    assert by_route[found.route_version] == "2.0.0"
    assert by_route[back] == "1.0.0"
    for version, served in caller.answers:
        assert served == ("2.0.0" if found.route_version <= version < back else "1.0.0")
