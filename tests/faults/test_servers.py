"""Kafka and Postgres are killed, frozen, and kept away."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from faults.conftest import Bench
from faults.site import OwnGateway, metric
from harness.waiting import eventually
from phantom.deployer.v1 import deployer_service_pb2 as rpc
from phantom_local.stack import ask
from phantom_ml_studio.client import Client, obtain_token
from phantom_ml_studio.deployments import stubs
from phantom_ml_studio.errors import Unavailable
from phantom_ml_studio.values import Deployment

pytestmark = pytest.mark.faults

# A control call says within this time that Postgres is away.
SAYS_WITHIN_S = 12.0


def test_kafka_killed_calls_go_on_and_what_was_spilled_is_counted_once(
    bench: Bench, shop: Deployment
) -> None:
    books = bench.books(shop.id)
    port = _metrics_port(bench)
    others = _all_but(bench, "kafka")
    spilled_before = metric(port, "phantom_gateway_batches_spilled_total")
    with bench.traffic(shop.id) as traffic:
        with bench.site.held_back("kafka"):
            traffic.flow(3)
            assert metric(port, "phantom_gateway_batches_spilled_total") > spilled_before
        eventually(lambda: metric(port, "phantom_gateway_spill_bytes") == 0, "replaying the spill", 60)
        traffic.advance(100)
        # What was decided goes through again.
        bench.deployments.set_canary_weight(shop.id, 40)
        traffic.advance(50)
    # Not one process that depends on it ended, to be started anew.
    assert _all_but(bench, "kafka") == others
    traffic.assert_unharmed()
    books.check(traffic)


def test_postgres_killed_calls_go_on_and_control_calls_say_so_soon(bench: Bench, shop: Deployment) -> None:
    books = bench.books(shop.id)
    person = bench.people.engineer
    token = obtain_token(person.name, person.password, bench.site.stack.control).value
    client = Client(bench.site.stack.control, token, retry_s=0)
    deployer = stubs.DeployerServiceStub(client.channel)
    others = _all_but(bench, "postgres")
    weight = rpc.SetCanaryWeightRequest(
        deployment_id=shop.id, percent=90, request_id="while-postgres-is-away"
    )
    with bench.traffic(shop.id) as traffic:
        with bench.site.held_back("postgres"):
            # Right after the kill (connections that were open), and later (none to be had).
            for _ in range(2):
                for method, request in (
                    (deployer.GetDeployment, rpc.GetDeploymentRequest(deployment_id=shop.id)),
                    (deployer.SetCanaryWeight, weight),
                ):
                    _says_unavailable(client, method, request)
                traffic.flow(1)
        client.close()
        bench.site.await_healthy()
        changed = bench.deployments.set_canary_weight(shop.id, 45)
        eventually(
            lambda: max(c.route_version for c in traffic.answered) >= changed.route_version, "the new weight"
        )
        traffic.advance(50)
    assert changed.candidate_percent == 45
    assert _all_but(bench, "postgres") == others
    traffic.assert_unharmed()
    books.check(traffic)


def test_a_gateway_restarted_while_kafka_is_frozen_doubles_nothing(bench: Bench, shop: Deployment) -> None:
    """Kafka has batches of the old process that were never acknowledged; the new one sends them again, marked."""
    books = bench.books(shop.id)
    site, others = bench.site, _all_but(bench, "gateway-0")
    with bench.traffic(shop.id) as traffic:
        with site.frozen("kafka"):
            traffic.flow(1.5)
            traffic.pause()
            old = site.process("gateway-0")
            old.send_signal(signal.SIGTERM)
            # Kafka says nothing at its start: it serves by its snapshot, and says that it does.
            site.await_back("gateway-0", old.pid)
            traffic.resume()
            traffic.advance(50)
            assert any("snapshot" in line for line in ask(_metrics_port(bench))[1])
        eventually(lambda: not ask(_metrics_port(bench))[1], "nothing that needs attention", 60)
        traffic.advance(50)
    traffic.assert_unharmed()
    assert _all_but(bench, "gateway-0") == others
    log = books.check(traffic)
    assert log.repeats, "nothing was sent twice, so nothing was tested"


def test_a_gateway_started_when_all_else_is_away_serves_by_its_snapshot(
    bench: Bench, shop: Deployment, own_gateway: Callable[[str], OwnGateway]
) -> None:
    books = bench.books(shop.id)
    late = own_gateway(bench.site.stack.kafka).start()
    late.stop()
    with bench.traffic(shop.id) as traffic:
        with bench.site.held_back("control", "postgres", "kafka"):
            late.start()
            assert any("snapshot" in line for line in ask(late.metrics_port)[1])
            assert metric(late.metrics_port, "phantom_gateway_routes_stale") == 1
            with bench.traffic(shop.id, late.grpc) as to_late:
                to_late.flow(2)
                traffic.advance(50)
        bench.site.await_healthy()
        eventually(lambda: not ask(late.metrics_port)[1], "nothing that needs attention", 60)
        with bench.traffic(shop.id, late.grpc) as to_joined:
            to_joined.advance(50)
        traffic.advance(50)
    late.stop()
    for each in (traffic, to_late, to_joined):
        each.assert_unharmed()
    log = books.check(traffic, to_late, to_joined)
    assert len(log.boots) > 2


def _all_but(bench: Bench, name: str) -> dict[str, int]:
    return {each: pid for each, pid in bench.site.pids().items() if each != name}


def _says_unavailable(client: Client, method: Callable[..., object], request: object) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        client.call(method, request)
    took = time.monotonic() - began
    assert raised.value.code == "postgres_unavailable"
    assert took < SAYS_WITHIN_S, f"took {took:.1f} s"


def _metrics_port(bench: Bench) -> int:
    return int(bench.site.stack.metrics.rsplit(":", 1)[1])
