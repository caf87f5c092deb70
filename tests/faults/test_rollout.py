"""The control process is killed at every transition of rollouts that judge themselves."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faults.conftest import MODEL, NEW, OLD, Bench
from faults.traffic import Traffic
from harness.kafka import headers_of, wait_for
from harness.waiting import eventually
from phantom_contracts import topics
from phantom_contracts.events.deployer import RolloutTransitioned
from phantom_ml_studio import Rollouts
from phantom_ml_studio.errors import PhantomError
from phantom_ml_studio.rollout_values import Rollout

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

CANARY: dict[str, Any] = {
    "initial_percentage": 40,
    "target_percentage": 100,
    "increment_percentage": 60,
    "increment_interval_minutes": 0.17,
    "analysis_interval_seconds": 10,
    "rollback_window_minutes": 0.1,
    # The models' outcomes are not reported here.
    "success_criteria": {"minimum_requests": 100, "quality_margin": False, "compare_latency": False},
}
# A measurement that no healthy revision could pass: each answer takes longer than a microsecond.
BAD = CANARY | {
    "success_criteria": {"minimum_requests": 100, "quality_margin": False, "latency_p95_threshold": 0.001}
}


@pytest.fixture
def endpoint(bench: Bench) -> Iterator[str]:
    """One replica of 1.0.0."""
    name = f"judged-{secrets.token_hex(2)}"
    bench.deployments.deploy(MODEL, OLD, deployment_id=name, replicas=1)
    bench.deployments.wait_ready(name)
    yield name
    bench.deployments.delete(name)
    eventually(lambda: _is_gone(bench, name), "the end of its model servers", 60)


@pytest.mark.parametrize(
    ("config", "end"), [(CANARY, "succeeded"), (BAD, "rolled_back")], ids=["promoted", "rolled back"]
)
def test_killed_at_every_transition_it_ends_as_if_nothing_had_happened(
    bench: Bench, endpoint: str, config: dict[str, Any], end: str
) -> None:
    books = bench.books(endpoint)
    with bench.traffic(endpoint) as traffic:
        ended = _killed_at_each_transition(bench, endpoint, config)
        eventually(lambda: _is_settled(bench, endpoint), "its replicas", 60)
        traffic.advance(100)
    assert ended.state == end, ended.reason
    stable = bench.deployments.get(endpoint).stable
    assert stable is not None
    assert stable.model_version == (NEW if end == "succeeded" else OLD)
    traffic.assert_unharmed()
    books.check(traffic)
    _assert_each_transition_is_told_once(bench, ended)
    assert _last_on_the_wrong_revision(traffic, ended, end) <= ended.route_version


def _killed_at_each_transition(bench: Bench, endpoint: str, config: dict[str, Any]) -> Rollout:
    rollouts = Rollouts(bench.people.engineer.client)
    made = rollouts.create(MODEL, NEW, config=config, deployment_id=endpoint)
    killed_at = 0
    while True:
        rollout = eventually(
            lambda seen=killed_at: _moved(rollouts, made.id, seen),  # type: ignore[misc]
            f"a transition after number {killed_at}",
            120,
        )
        killed_at = rollout.transitions[-1].number
        if rollout.has_ended:
            return rollout
        pid = bench.site.kill("control")
        bench.site.await_back("control", pid)


def _moved(rollouts: Rollouts, rollout_id: str, seen: int) -> Rollout | None:
    found = _answered(lambda: rollouts.get(rollout_id))
    return found if found is not None and found.transitions[-1].number > seen else None


def _answered(ask: Callable[[], Rollout]) -> Rollout | None:
    """None while nobody answers."""
    try:
        return ask()
    except PhantomError:
        return None


def _assert_each_transition_is_told_once(bench: Bench, rollout: Rollout) -> None:
    """In the topic as in the answer: numbered without a gap, each from where the one before led."""
    assert [each.number for each in rollout.transitions] == list(range(1, len(rollout.transitions) + 1))
    for before, after in zip(rollout.transitions, rollout.transitions[1:], strict=False):
        assert after.from_state == before.to_state
    told = [(each.from_state, each.to_state, each.reason_code) for each in rollout.transitions]

    def ours(records: list[Any]) -> list[tuple[str, str, str]]:
        events = {
            headers_of(record)["ce_id"]: json.loads(record.value)
            for record in records
            if headers_of(record)["ce_type"] == RolloutTransitioned.type
        }
        return [
            (event["from_state"], event["to_state"], event["reason_code"])
            for event in events.values()
            if event["rollout_id"] == rollout.id
        ]

    records = asyncio.run(
        wait_for(bench.site.stack.kafka, topics.DEPLOYER_EVENTS, lambda found: len(ours(found)) >= len(told))
    )
    assert ours(records) == told


def _last_on_the_wrong_revision(traffic: Traffic, rollout: Rollout, end: str) -> int:
    """Newest route version under which the revision that lost was called."""
    wrong = rollout.stable if end == "succeeded" else rollout.candidate
    return max((call.route_version for call in traffic.answered if call.revision == wrong), default=0)


def _is_settled(bench: Bench, endpoint: str) -> bool:
    deployment = bench.deployments.get(endpoint)
    return deployment.phase == "ready" and not deployment.withdrawing


def _is_gone(bench: Bench, endpoint: str) -> bool:
    return not any(name.startswith(endpoint) for name in bench.site.pids())
