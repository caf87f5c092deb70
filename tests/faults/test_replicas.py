"""A model server is killed."""

from __future__ import annotations

import psutil
import pytest

from faults.conftest import Bench
from harness.waiting import eventually
from phantom_ml_studio.values import Deployment, Replica

pytestmark = pytest.mark.faults


def test_a_killed_model_server_costs_no_request_and_comes_back_into_the_route(
    bench: Bench, shop: Deployment
) -> None:
    books = bench.books(shop.id)
    with bench.traffic(shop.id) as traffic:
        # The second is killed when the first is back: it must have been routed to, or nobody would be left.
        for number in range(2):
            victim = _replicas(bench, shop)[number]
            psutil.Process(victim.pid).kill()
            traffic.advance(50)
            eventually(lambda n=number, v=victim: _is_back(bench, shop, n, v), "a replica in its place", 60)
            traffic.advance(50)
    traffic.assert_unharmed()
    books.check(traffic)


def _replicas(bench: Bench, shop: Deployment) -> tuple[Replica, ...]:
    stable = bench.deployments.get(shop.id).stable
    assert stable is not None
    assert len(stable.replicas) == 2
    return stable.replicas


def _is_back(bench: Bench, shop: Deployment, number: int, victim: Replica) -> bool:
    """Another process, ready, at an address that every gateway has applied."""
    found = bench.deployments.get(shop.id)
    replica = _replicas(bench, shop)[number]
    record = bench.deployments.route(shop.id).record
    routed = {each.address for revision in record.revisions for each in revision.replicas}
    return (
        replica.pid not in (0, victim.pid)
        and replica.phase == "ready"
        and replica.address in routed
        and found.acknowledged_route_version >= record.version
    )
