"""The control process is killed: between a commit and its effect, and in the middle of calls."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from faults.conftest import NEW, Bench
from faults.traffic import Traffic
from harness.waiting import eventually
from phantom_ml_studio.errors import PhantomError, Unavailable
from phantom_ml_studio.values import Deployment, Revision

pytestmark = pytest.mark.faults


def test_a_weight_set_right_before_the_kill_is_not_lost_and_replicas_are_adopted(
    bench: Bench, shop: Deployment
) -> None:
    books = bench.books(shop.id)
    before = bench.deployments.get(shop.id)
    with bench.traffic(shop.id) as traffic:
        changed = bench.deployments.set_canary_weight(shop.id, 35, wait=False)
        pid = bench.site.kill("control")
        traffic.flow(2)
        bench.site.await_back("control", pid)
        after = _until(
            bench, shop.id, lambda found: found.acknowledged_route_version >= changed.route_version
        )
        eventually(lambda: _newest(traffic) >= changed.route_version, "answers under the new weight")
        traffic.advance(200)
    assert after.candidate_percent == 35
    assert _processes(after) == _processes(before)
    traffic.assert_unharmed()
    books.check(traffic)


def test_killed_at_each_point_of_a_rollout_it_converges(bench: Bench, rollout: Deployment) -> None:
    """Each call is repeated with its own request id until it is answered, as the SDK does; it is done once."""
    name, deployments = rollout.id, bench.deployments
    books = bench.books(name)
    with bench.traffic(name) as traffic:
        route = rollout.route_version
        # In the middle of the call: whether it had committed, nobody knows.
        weighted = _killed_during(
            bench,
            lambda id: deployments.set_canary_weight(name, 80, wait=False, request_id=id),
            after_s=0.004,
        )
        assert weighted.route_version == route + 1
        assert weighted.candidate_percent == 80
        # Committed: the record is in the outbox, or just in Kafka; the withdrawal has not begun.
        completed = deployments.complete_rollout(name, wait=False)
        pid = bench.site.kill("control")
        traffic.flow(1)
        bench.site.await_back("control", pid)
        # The withdrawal is somewhere between its first step and the end of the old process.
        _until(
            bench, name, lambda found: not found.withdrawing or found.route_version > completed.route_version
        )
        bench.site.kill("control")
        done = _until(bench, name, lambda found: found.phase == "ready" and not found.withdrawing)
        assert done.stable is not None
        assert (done.stable.model_version, done.candidate) == (NEW, None)
        eventually(lambda: _newest(traffic) >= done.route_version, "answers under the last route")
        traffic.advance(100)
    assert _revisions(traffic) == {f"{name}.1", f"{name}.2"}
    traffic.assert_unharmed()
    books.check(traffic)


def test_a_deployment_whose_order_was_just_committed_is_carried_out(bench: Bench) -> None:
    name = f"ordered-{uuid.uuid4().hex[:4]}"
    bench.deployments.deploy("weather", NEW, deployment_id=name, replicas=1)
    pid = bench.site.kill("control")
    bench.site.await_back("control", pid)
    ready = _until(bench, name, lambda found: found.phase == "ready" and found.acknowledged_route_version > 0)
    assert ready.stable is not None
    assert [each.phase for each in ready.stable.replicas] == ["ready"]
    with bench.traffic(name) as traffic:
        traffic.advance(20)
        # The order to delete, too. Calls that come after it find no endpoint.
        traffic.pause()
        replica = ready.stable.replicas[0].replica_id
        bench.deployments.delete(name)
        pid = bench.site.kill("control")
        bench.site.await_back("control", pid)
        eventually(lambda: replica not in bench.site.pids(), "the end of its model server", 60)
    traffic.assert_unharmed()


def _killed_during(bench: Bench, call: Callable[[str], Deployment], after_s: float) -> Deployment:
    """What the call answers in the end, the control process having been killed `after_s` after it was sent."""
    answers: list[Deployment] = []
    request_id = str(uuid.uuid4())

    def insist() -> None:
        while not answers:
            try:
                answers.append(call(request_id))
            except Unavailable:
                continue

    caller = threading.Thread(target=insist, daemon=True)
    caller.start()
    time.sleep(after_s)  # a point in the middle, not a wait for something
    pid = bench.site.kill("control")
    bench.site.await_back("control", pid)
    caller.join(60)
    assert answers, "the call was never answered"
    return answers[0]


def _until(bench: Bench, name: str, holds: Callable[[Deployment], bool], within_s: float = 90) -> Deployment:
    """The deployment once it is so. The control process may be away meanwhile."""

    def look() -> Any:
        try:
            found = bench.deployments.get(name)
        except PhantomError:
            return None
        return found if holds(found) else None

    return eventually(look, f"{name} becoming what is wanted", within_s)


def _processes(deployment: Deployment) -> dict[str, tuple[int, int]]:
    """Replica id → pid and restarts."""
    revisions: list[Revision | None] = [deployment.stable, deployment.candidate]
    return {
        each.replica_id: (each.pid, each.restarts) for r in revisions if r is not None for each in r.replicas
    }


def _newest(traffic: Traffic) -> int:
    return max(call.route_version for call in traffic.answered)


def _revisions(traffic: Traffic) -> set[str]:
    return {call.revision for call in traffic.answered}
