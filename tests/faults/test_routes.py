"""A revision is withdrawn while gateways are cut off from Kafka, join, or start with what they knew before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from faults.conftest import Bench
from faults.proxy import KafkaProxy
from faults.site import OwnGateway, metric
from faults.traffic import Traffic
from harness.waiting import eventually
from phantom_local.stack import ask
from phantom_ml_studio.values import Deployment

pytestmark = pytest.mark.faults

MakeGateway = Callable[[str], OwnGateway]
# When gateways are started, in seconds from the order that begins the withdrawal. A gateway that is cut off
# makes it last 10 s and more; a start takes 1 to 4 s. So they join before the new route is in Kafka, while the
# deployer waits for acknowledgements, when the old replica is told to stop, and after it has ended.
JOINS_AT_S = (-1.5, 1.0, 6.0, 9.0)


def test_a_gateway_cut_off_during_a_withdrawal_and_those_that_join_lose_no_request(
    bench: Bench, rollout: Deployment, proxy: KafkaProxy, own_gateway: MakeGateway
) -> None:
    books = bench.books(rollout.id)
    name, old = rollout.id, f"{rollout.id}.1"
    cut_off = own_gateway(proxy.bootstrap).start()
    stale = own_gateway(proxy.bootstrap).start()
    stale.stop()  # it keeps its snapshot from before the withdrawal
    with ExitStack() as stack:
        main = stack.enter_context(bench.traffic(name, per_second=60))
        cut = stack.enter_context(bench.traffic(name, cut_off.grpc, per_second=60))
        proxy.cut()
        known = max(call.route_version for call in cut.answered)
        with _joining(bench, name, own_gateway) as joined:
            completed = bench.deployments.complete_rollout(name, wait=False)
            assert known < completed.route_version
            last = bench.deployments.wait_withdrawn(name, timeout_s=90).route_version
        cut.advance(50)
        main.advance(50)
    # Kafka never told it: the replica that was taken away did, by its draining frame.
    assert max(call.route_version for call in cut.answered) == last
    assert cut.answered[-1].revision != old
    for traffic in (main, cut, *joined):
        traffic.assert_unharmed()
    refused = _serves_nothing_stale(rollout, stale, proxy)
    eventually(lambda: not ask(cut_off.metrics_port)[1], "having told Kafka everything", 60)
    with bench.traffic(name, stale.grpc) as healed:
        healed.advance(20)
    healed.assert_unharmed()
    books.check(main, cut, refused, healed, *joined)


@contextmanager
def _joining(bench: Bench, name: str, own_gateway: MakeGateway) -> Iterator[list[Traffic]]:
    """Gateways that start at their moments around the block, each called from when it is ready until after it."""
    kafka, began = bench.site.stack.kafka, time.monotonic() + max(0.0, -min(JOINS_AT_S))
    gateways = [own_gateway(kafka) for _ in JOINS_AT_S]
    traffics: list[Traffic] = []
    failed: list[BaseException] = []
    is_over = threading.Event()

    def join(gateway: OwnGateway, at_s: float) -> None:
        try:
            time.sleep(max(0.0, began + at_s - time.monotonic()))  # a moment, not a wait for something
            with bench.traffic(name, gateway.start().grpc, per_second=30) as traffic:
                traffics.append(traffic)
                is_over.wait(120)
                traffic.advance(20)
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=join, args=each, daemon=True)
        for each in zip(gateways, JOINS_AT_S, strict=True)
    ]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, began - time.monotonic()))
    try:
        yield traffics
    finally:
        is_over.set()
        for thread in threads:
            thread.join(90)
    assert not failed, failed
    assert len(traffics) == len(JOINS_AT_S)


def _serves_nothing_stale(rollout: Deployment, stale: OwnGateway, proxy: KafkaProxy) -> Traffic:
    """Started cut off, it refuses calls for the replica that is gone, until it hears from Kafka."""
    stale.start()
    assert metric(stale.metrics_port, "phantom_gateway_routes_stale") == 1
    with Traffic(stale.grpc, rollout.id, per_second=30, awaits=False) as traffic:
        eventually(lambda: len(traffic.calls) > 30, "ends of calls")
    refused = [call for call in traffic.calls if call.error]
    # Units of the candidate go to its replica, which is still there and is the stable one now.
    assert {call.revision for call in traffic.answered} <= {f"{rollout.id}.2"}
    assert refused
    assert all(call.error.startswith("UNAVAILABLE route_stale") for call in refused), refused[0]
    proxy.heal()
    eventually(lambda: not ask(stale.metrics_port)[1], "reading the routes from Kafka", 60)
    traffic.forgive()
    return traffic
