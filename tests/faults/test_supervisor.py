"""`up` itself is killed; everything is stopped and started again."""

from __future__ import annotations

import psutil
import pytest

from faults.conftest import Bench
from phantom_local.children import wait_gone
from phantom_ml_studio.values import Deployment

pytestmark = pytest.mark.faults


def test_a_second_up_after_kill_9_adopts_everything(bench: Bench, shop: Deployment) -> None:
    books = bench.books(shop.id)
    site = bench.site
    with bench.traffic(shop.id) as traffic:
        before = site.pids()
        site.kill("up")
        traffic.flow(1)
        site.up()
        assert site.pids() == before
        # It watches what it adopted.
        gone = site.kill("control")
        site.await_back("control", gone)
        traffic.advance(50)
    traffic.assert_unharmed()
    books.check(traffic)


def test_after_down_and_up_deployments_serve_again_and_counters_go_on(bench: Bench, shop: Deployment) -> None:
    books = bench.books(shop.id)
    site = bench.site
    with bench.traffic(shop.id) as traffic:
        traffic.advance(100)
        traffic.pause()
        before, counted = bench.deployments.get(shop.id), books.counted()
        site.down()
        assert site.pids() == {}
        site.up()
        after = bench.deployments.wait_ready(shop.id)
        assert books.counted() >= counted > 0
        traffic.resume()
        traffic.advance(100)
    assert after.candidate_percent == before.candidate_percent
    assert {call.route_version for call in traffic.answered} >= {before.route_version}
    traffic.assert_unharmed()
    books.check(traffic)


def test_down_without_up_and_without_a_control_process_stops_everything(
    bench: Bench, shop: Deployment
) -> None:
    site = bench.site
    pids = site.pids()
    assert {"control", "gateway-0", "kafka", "postgres"} < set(pids)
    assert len(pids) == 4 + 2 * 2, "two replicas of each revision"
    processes = [psutil.Process(pid) for pid in pids.values()]
    site.kill("up")
    site.kill("control")
    said = site.down()
    assert "model server" in said
    assert wait_gone(processes, 5) == []
    assert site.pids() == {}
    site.up()
    bench.deployments.wait_ready(shop.id)
