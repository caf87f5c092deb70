"""A gateway is killed. It may lose what its last 50 ms answered and the batches that Kafka had not acknowledged."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from faults.conftest import Bench
from faults.log import read_log
from faults.traffic import Call, Traffic
from harness.waiting import eventually
from phantom_ml_studio.values import Deployment

pytestmark = pytest.mark.faults

# Contracts §7: records close into a batch after 50 ms or 512 rows; at most 4 of a partition are unacknowledged.
LAST_S = 0.050
BATCH_RECORDS = 512
UNACKNOWLEDGED = 4
# What a machine that is busy may add to the 50 ms before the timer fires.
SLACK_S = 0.200
# Contracts §5: a silent gateway is waited for 10 s of uninterrupted reading, and its restart takes a while.
SILENT_S = 10.0


def test_a_killed_gateway_loses_no_more_than_it_may_and_holds_nobody_up(
    bench: Bench, rollout: Deployment
) -> None:
    site, deployments = bench.site, bench.deployments
    with bench.traffic(rollout.id, per_second=400) as traffic:
        traffic.flow(2)
        pid = site.kill("gateway-0")
        killed, killed_at = time.monotonic(), datetime.now(UTC)
        traffic.pause()
        # Its boot id never says that it left: the deployer waits for it, but not for long.
        completed = deployments.complete_rollout(rollout.id, wait=True)
        deployments.wait_withdrawn(rollout.id)
        withdrawn_after = time.monotonic() - killed
        site.await_back("gateway-0", pid)
        traffic.resume()
        before = len(traffic.calls)
        traffic.advance(100)
        after = traffic.calls[before:]
    assert not [call.error for call in after if call.error]
    assert {call.revision for call in after} == {f"{rollout.id}.2"}
    assert min(call.route_version for call in after) >= completed.route_version
    _assert_allowed(bench, rollout.id, traffic, killed)
    _assert_partial(bench, rollout.id, killed_at)
    assert withdrawn_after < 2 * SILENT_S, f"the withdrawal took {withdrawn_after:.1f} s"


def _assert_allowed(bench: Bench, endpoint: str, traffic: Traffic, killed: float) -> None:
    answered = traffic.answered
    later = sum(call.ended > killed + 1 for call in answered)
    eventually(
        lambda: _logged_since(bench, endpoint, traffic, killed + 1) == later, "logging what came later", 60
    )
    log = read_log(bench.site.stack.kafka, endpoint)
    assert not log.unmarked_repeats
    assert max(log.answered.values()) == 1
    lost = [call for call in answered if call.prediction_id not in log.answered]
    latest = [call for call in answered if killed - LAST_S - SLACK_S <= call.ended <= killed + SLACK_S]
    allowed = len(latest) + UNACKNOWLEDGED * BATCH_RECORDS
    sys.stderr.write(f"\nkill -9 of a gateway lost {_words(lost, killed)}; {allowed} are allowed\n")
    assert len(lost) <= allowed
    # A batch that is not acknowledged within a second is followed by the spill: nothing older can be lost.
    assert not [call for call in lost if call.ended < killed - 1.0 - LAST_S - SLACK_S]
    # What it answered but its client never heard may be in the topic, and is counted.
    expected = sum(log.answered.values())
    counted = bench.monitoring.counts(endpoint)["answered_calls"]
    assert counted == expected, f"{expected} answers in the topic, {counted} counted"


def _logged_since(bench: Bench, endpoint: str, traffic: Traffic, since: float) -> int:
    log = read_log(bench.site.stack.kafka, endpoint)
    calls = {call.prediction_id for call in traffic.answered if call.ended > since}
    return len(calls & set(log.answered))


def _words(lost: list[Call], killed: float) -> str:
    if not lost:
        return "no record"
    return f"{len(lost)} records, the oldest {(killed - min(c.ended for c in lost)) * 1000:.0f} ms before the kill"


def _assert_partial(bench: Bench, endpoint: str, killed_at: datetime) -> None:
    """The windows that the dead gateway had open stay partial; those after it become complete."""

    def windows() -> tuple[set[str], set[str]]:
        found = bench.monitoring.windows(endpoint, since=killed_at - timedelta(seconds=60))
        starts = [(datetime.fromisoformat(each["start"]), each["state"]) for each in found]
        open_then = {state for start, state in starts if start <= killed_at < start + timedelta(seconds=5)}
        return open_then, {state for start, state in starts if start > killed_at}

    eventually(lambda: windows()[1] == {"complete"}, "completing the windows after the kill", 60)
    assert windows()[0] == {"partial"}
