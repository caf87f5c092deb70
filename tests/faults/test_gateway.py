"""A gateway is killed. It may lose what its last 50 ms answered and the batches that Kafka had not acknowledged."""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from datetime import UTC, datetime, timedelta

import pytest

from faults.conftest import Bench
from faults.log import Log, read_log
from faults.traffic import Call, Traffic
from harness.waiting import eventually
from phantom_ml_studio.values import Deployment

pytestmark = pytest.mark.faults

# Contracts §7: records close into a batch after 50 ms (or 512 rows); at most 4 of a partition are unacknowledged.
BATCH_S = 0.050
BATCHES = 4 + 1
# What a busy machine adds to a timer.
SLACK_S = 0.100
# Contracts §5: a silent gateway is waited for 10 s of uninterrupted reading.
SILENT_S = 10.0
PER_SECOND = 400.0


def test_a_killed_gateway_loses_no_more_than_it_may_and_holds_nobody_up(
    bench: Bench, rollout: Deployment
) -> None:
    site, deployments = bench.site, bench.deployments
    with bench.traffic(rollout.id, per_second=PER_SECOND) as traffic:
        traffic.flow(2)
        pid = site.kill("gateway-0")
        killed, killed_at = time.monotonic(), datetime.now(UTC)
        traffic.pause()
        # Its boot id never says that it left: the deployer waits for it, but not for long.
        completed = deployments.complete_rollout(rollout.id, wait=True)
        deployments.wait_withdrawn(rollout.id)
        withdrawn_after = time.monotonic() - killed
        site.await_back("gateway-0", pid)
        resumed = time.monotonic()
        traffic.resume()
        traffic.advance(100)
    after = [call for call in traffic.calls if call.sent >= resumed]
    assert not [call.error for call in after if call.error]
    assert {call.revision for call in after} == {f"{rollout.id}.2"}
    assert min(call.route_version for call in after) >= completed.route_version
    lost = _lost(bench, traffic, killed, resumed)
    # What waits for over a second is followed by the spill: nothing older can be lost.
    assert not [call for call in lost if call.ended < killed - 1.0 - BATCH_S - SLACK_S]
    _assert_partial(bench, rollout.id, killed_at)
    assert withdrawn_after < 2 * SILENT_S, f"the withdrawal took {withdrawn_after:.1f} s"


def test_a_gateway_killed_while_kafka_is_away_leaves_its_spill_to_the_next(
    bench: Bench, shop: Deployment
) -> None:
    site = bench.site
    with bench.traffic(shop.id, per_second=PER_SECOND) as traffic:
        with site.held_back("kafka"):
            traffic.flow(4)
            pid = site.kill("gateway-0")
            killed = time.monotonic()
            traffic.pause()
        site.await_back("gateway-0", pid)
        resumed = time.monotonic()
        traffic.resume()
        traffic.advance(100)
    _lost(bench, traffic, killed, resumed)


def _lost(bench: Bench, traffic: Traffic, killed: float, resumed: float) -> list[Call]:
    """The answers that are not in the topic, no more than may be; what is there is counted exactly once."""
    log = _settled(bench, traffic, resumed)
    assert not log.unmarked_repeats
    assert max(log.answered.values()) == 1
    lost = [call for call in traffic.answered if call.prediction_id not in log.answered]
    assert not [call for call in lost if call.sent >= resumed]
    allowed = BATCHES * _most_within(traffic, BATCH_S + SLACK_S)
    sys.stderr.write(f"\nkill -9 of a gateway lost {_words(lost, killed)}; {allowed} may be lost\n")
    assert len(lost) <= allowed
    # What it answered but its client never heard may be in the topic, and is counted.
    expected = sum(log.answered.values())
    eventually(lambda: _counted(bench, traffic) >= expected, f"counting {expected}", 60)
    assert _counted(bench, traffic) == expected
    return lost


def _settled(bench: Bench, traffic: Traffic, resumed: float) -> Log:
    """The topic once it has every answer of the restarted gateway, which come behind what it found in the spill."""
    later = {call.prediction_id for call in traffic.answered if call.sent >= resumed}

    def read() -> Log | None:
        log = read_log(bench.site.stack.kafka, traffic.endpoint)
        return log if later <= set(log.answered) else None

    return eventually(read, "logging every later answer", 60)


def _most_within(traffic: Traffic, seconds: float) -> int:
    """Of the answers, the most that came within so much time."""
    ends = sorted(call.ended for call in traffic.answered)
    return max(bisect_right(ends, end + seconds) - i for i, end in enumerate(ends))


def _counted(bench: Bench, traffic: Traffic) -> int:
    return int(bench.monitoring.counts(traffic.endpoint)["answered_calls"])


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
