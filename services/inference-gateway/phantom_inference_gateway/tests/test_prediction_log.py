"""The prediction log against a real Kafka: exactly once in effect, whatever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from phantom_contracts.topics import PREDICTION_BATCH_TYPE, PREDICTIONS
from phantom_inference_gateway import prediction_log
from phantom_inference_gateway.prediction_log import PredictionLog, _Endpoint
from phantom_inference_gateway.tests.ledger import Ledger, new_entry, read_topic
from phantom_local.embedded.kafka import KafkaServer
from phantom_platform.kafka.topics import ensure_topics

pytestmark = pytest.mark.integration
NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KafkaServer]:
    """A Kafka of our own: these tests stop, freeze and restart it."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    await asyncio.to_thread(server.start)
    await ensure_topics(server.bootstrap, [PREDICTIONS])
    yield server
    await asyncio.to_thread(server.kill)


@pytest.fixture
def endpoint() -> str:
    return f"default/e-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    return tmp_path / "gateway" / "w0" / "spill"


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of many kinds, most without an event
            await asyncio.sleep(0.02)


async def record_for(log: PredictionLog, keys: list[str], seconds: float) -> list[bytes]:
    """Record steadily; the ids."""
    ids = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for key in keys:
            entry = new_entry(key)
            log.record(entry)
            ids.append(entry.prediction_id)
        await asyncio.sleep(0.002)
    return ids


def assert_exactly_once(ledger: Ledger, ids: list[bytes]) -> None:
    assert ledger.unmarked_repeats == 0
    assert set(ledger.applied.values()) <= {1}
    assert set(ids) == set(ledger.applied)


def spilled_files(spill: Path) -> list[Path]:
    return list(spill.glob("*.spill"))


def whole_notes(notes: Path) -> bytes:
    data = notes.read_bytes()
    return data[: len(data) // 24 * 24]


async def test_every_record_arrives_once_in_numbered_batches(
    kafka: KafkaServer, spill: Path, endpoint: str
) -> None:
    log = PredictionLog(kafka.bootstrap, spill)
    await log.start()
    await until(lambda: log.stats.producers)
    ids = await record_for(log, [endpoint], 0.6)
    await log.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert_exactly_once(ledger, ids)
    ((boot_partition, sequences),) = ledger.sequences.items()
    assert boot_partition[0] == log.boot_id
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) >= 8  # 50 ms each
    assert ledger.marked == 0
    first = ledger.headers[0]
    assert first["ce_id"] == f"{log.boot_id}/{boot_partition[1]}/1".encode()
    assert first["ce_type"] == PREDICTION_BATCH_TYPE.encode()
    assert first["content-type"] == PREDICTIONS.content_type.encode()
    assert first["ce_source"] == b"phantom/inference-gateway"
    assert spilled_files(spill) == []


async def test_a_call_of_many_rows_is_one_call_in_several_records(
    kafka: KafkaServer, spill: Path, endpoint: str
) -> None:
    log = PredictionLog(kafka.bootstrap, spill)
    await log.start()
    await until(lambda: log.stats.producers)
    entry = new_entry(endpoint)
    blocks = [bytes([number]) * 1000 for number in range(3)]
    # Not decoded by the log; for the reader they must be messages, so unknown fields: tag 100, length-delimited.
    blocks = [b"\xa2\x06\xe8\x07" + each for each in blocks]
    entry.parts = tuple((block, 0, 512, 512 * number) for number, block in enumerate(blocks))
    log.record(entry)
    await log.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert ledger.applied == {entry.prediction_id: 3}
    records = [batch for batch in ledger.batches[endpoint] if batch[1]]
    assert [batch[1] for batch in records] == [1, 1, 1]
    assert len({tuple(batch[3]) for batch in records}) == 1


async def test_watermarks_never_pass_a_record_that_follows(
    kafka: KafkaServer, spill: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "WATERMARK_EVERY_S", 0.1)
    idle = f"{endpoint}-idle"
    log = PredictionLog(kafka.bootstrap, spill)
    log.set_routed([endpoint, idle])
    await log.start()
    await until(lambda: log.stats.producers)
    await record_for(log, [endpoint], 1.0)
    before_stop_us = time.time_ns() // 1000
    await log.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint, idle])
    promised = 0
    for _, _, watermark_us, answered in ledger.batches[endpoint]:
        assert all(each >= promised for each in answered)
        promised = max(promised, watermark_us)
    empty = [batch for batch in ledger.batches[idle] if batch[1] == 0]
    assert len(empty) == len(ledger.batches[idle]) >= 5
    marks = [batch[2] for batch in empty]
    assert marks == sorted(marks)
    # the last one says that nothing will follow: past the end of any window that is open now
    assert marks[-1] >= before_stop_us + 5_000_000
    assert ledger.batches[endpoint][-1][2] >= before_stop_us + 5_000_000


def test_a_watermark_is_the_oldest_time_that_waits() -> None:
    endpoint = _Endpoint("default/e")
    assert endpoint.watermark(100) == 100
    endpoint.close(1, 50)
    endpoint.close(2, 40)
    endpoint.close(3, 60)
    assert endpoint.watermark(100) == 40
    endpoint.settle(1)
    assert endpoint.watermark(100) == 40
    endpoint.settle(3)
    assert endpoint.watermark(100) == 40
    endpoint.settle(2)
    assert endpoint.watermark(100) == 100
    endpoint.floor_us = 120
    assert endpoint.watermark(100) == 120  # the clock went back


async def test_kafka_stopped_and_restarted_loses_and_doubles_nothing(
    kafka: KafkaServer, spill: Path, endpoint: str
) -> None:
    log = PredictionLog(kafka.bootstrap, spill)
    keys = [f"{endpoint}-{number}" for number in range(8)]
    log.set_routed(keys)
    await log.start()
    ids = await record_for(log, keys, 0.5)
    await asyncio.to_thread(kafka.kill)
    ids += await record_for(log, keys, 3.0)
    assert log.spill_bytes > 0
    await asyncio.to_thread(kafka.start)
    ids += await record_for(log, keys, 1.0)
    await until(lambda: log.spill_bytes == 0 and log.unacknowledged == 0)
    await log.stop()
    ledger = await read_topic(kafka.bootstrap, keys)
    assert_exactly_once(ledger, ids)
    for (_, _), sequences in ledger.sequences.items():
        assert sequences == sorted(sequences)
    assert log.stats.batches_dropped == 0
    assert spilled_files(spill) == []


async def test_a_frozen_broker_gets_nothing_twice(kafka: KafkaServer, spill: Path, endpoint: str) -> None:
    log = PredictionLog(kafka.bootstrap, spill)
    await log.start()
    ids = await record_for(log, [endpoint], 0.4)
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        ids += await record_for(log, [endpoint], 4.0)
        assert log.unacknowledged <= 4
        assert log.stats.batches_spilled > 20
        spilled = log.spill_bytes
        assert spilled > 0
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    ids += await record_for(log, [endpoint], 0.5)
    await until(lambda: log.spill_bytes == 0 and log.unacknowledged == 0)
    await log.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert_exactly_once(ledger, ids)
    ((_, sequences),) = ledger.sequences.items()
    assert sequences == list(range(1, len(sequences) + 1))


async def test_a_failed_future_replaces_the_producer_and_marks_the_batch(
    kafka: KafkaServer, spill: Path, endpoint: str
) -> None:
    log = PredictionLog(kafka.bootstrap, spill)
    await log.start()
    ids = await record_for(log, [endpoint], 0.3)
    await until(lambda: log.unacknowledged == 0)
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        ids += await record_for(log, [endpoint], 0.5)
        producer = log._connection.producer
        assert producer is not None
        handed = log._lanes[log._endpoints[endpoint].partition]._handed
        assert 1 <= len(handed) <= 4
        # What aiokafka does with a batch whose partition has no leader for longer than the request timeout
        producer._message_accumulator.fail_all(RuntimeError("no leader"))
        ids += await record_for(log, [endpoint], 0.5)
        assert log._connection.producer is None
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    ids += await record_for(log, [endpoint], 0.5)
    await until(lambda: log.spill_bytes == 0 and log.unacknowledged == 0)
    assert log.stats.producers == 2
    await log.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert_exactly_once(ledger, ids)
    assert 1 <= ledger.marked <= 4


async def test_shut_down_without_kafka_a_new_process_sends_the_rest(
    kafka: KafkaServer, spill: Path, endpoint: str
) -> None:
    first = PredictionLog(kafka.bootstrap, spill, drain_timeout_s=0.5)
    first.set_routed([endpoint])
    await first.start()
    ids = await record_for(first, [endpoint], 0.3)
    await until(lambda: first.unacknowledged == 0)
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        ids += await record_for(first, [endpoint], 1.0)
        await asyncio.wait_for(first.stop(), 20.0)
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    assert spilled_files(spill)
    second = PredictionLog(kafka.bootstrap, spill)
    await second.start()
    await until(lambda: second.spill_bytes == 0 and second.unacknowledged == 0)
    await second.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert_exactly_once(ledger, ids)
    assert ledger.marked > 0
    sequences = ledger.sequences[first.boot_id, _Endpoint(endpoint).partition]
    assert sequences == list(range(1, len(sequences) + 1))
    # the promise that nothing follows came last
    last = ledger.batches[endpoint][-1]
    assert last[1] == 0
    assert last[2] > max(time_us for batch in ledger.batches[endpoint] for time_us in batch[3]) + 5_000_000


async def test_without_kafka_it_starts_spills_and_stops(
    kafka: KafkaServer, spill: Path, endpoint: str
) -> None:
    first = PredictionLog(NOWHERE, spill)
    await asyncio.wait_for(first.start(), 2.0)
    ids = await record_for(first, [endpoint], 0.3)
    await asyncio.wait_for(first.stop(), 5.0)
    second = PredictionLog(kafka.bootstrap, spill)
    await second.start()
    await until(lambda: second.spill_bytes == 0 and second.unacknowledged == 0)
    await second.stop()
    assert_exactly_once(await read_topic(kafka.bootstrap, [endpoint]), ids)


async def test_beyond_the_bound_the_newest_are_dropped_and_counted(
    kafka: KafkaServer, spill: Path, endpoint: str
) -> None:
    first = PredictionLog(NOWHERE, spill, spill_bytes=60_000)
    await first.start()
    ids = await record_for(first, [endpoint], 2.0)
    await until(lambda: len(first._endpoints[endpoint].builder) == 0)
    assert first.spill_bytes <= 60_000
    dropped = first.stats.records_dropped
    assert 0 < dropped < len(ids)
    assert first.stats.batches_dropped > 0
    await first.stop()
    second = PredictionLog(kafka.bootstrap, spill)
    await second.start()
    await until(lambda: second.spill_bytes == 0 and second.unacknowledged == 0)
    await second.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert list(ledger.applied) == ids[: len(ids) - dropped]


async def test_a_record_outside_start_and_stop_is_counted_as_lost(spill: Path, endpoint: str) -> None:
    log = PredictionLog(NOWHERE, spill)
    log.record(new_entry(endpoint))
    await log.start()
    await log.stop()
    log.record(new_entry(endpoint))
    values = {name: value() for name, (_, value) in {**log.counters(), **log.gauges()}.items()}
    assert values["log_records_dropped"] == 2
    assert values["log_batches_dropped"] == values["log_spill_bytes"] == 0


async def test_an_entry_that_cannot_be_encoded_does_not_raise(spill: Path, endpoint: str) -> None:
    log = PredictionLog(NOWHERE, spill)
    await log.start()
    wrong = new_entry(endpoint)
    wrong.route_version = -1
    log.record(wrong)
    odd = new_entry(f"{endpoint}-odd")
    odd.unit = "half \ud800"
    log.record(odd)
    await log.stop()
    assert log.stats.records_dropped == 1
    assert log.stats.batches_spilled == 3  # the odd one, and the last promises of both endpoints


async def test_the_spill_of_a_gone_worker_is_taken_over(
    kafka: KafkaServer, tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "_SYNC_EVERY_S", 0.1)
    monkeypatch.setattr(prediction_log, "_TAKE_OVER_EVERY_S", 0.1)
    folders = [tmp_path / "gateway" / worker / "spill" for worker in ("w0", "w1")]
    gone = PredictionLog(NOWHERE, folders[1])
    await gone.start()
    living = PredictionLog(kafka.bootstrap, folders[0])
    await living.start()  # while the other still holds its folder
    ids = await record_for(gone, [endpoint], 0.3)
    await gone.stop()
    await until(lambda: not spilled_files(folders[1]) and living.spill_bytes == 0)
    await living.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert_exactly_once(ledger, ids)
    assert {boot for boot, _ in ledger.sequences} == {gone.boot_id}
    assert ledger.marked > 0


async def test_kill_9_loses_at_most_fifty_ms_and_four_batches(
    kafka: KafkaServer, spill: Path, tmp_path: Path, endpoint: str
) -> None:
    boot_id, notes = str(uuid.uuid4()), tmp_path / "notes"
    arguments = [kafka.bootstrap, str(spill), str(notes), endpoint, boot_id]
    command = [sys.executable, "-m", "phantom_inference_gateway.tests.log_writer", *arguments]
    writer = await asyncio.to_thread(subprocess.Popen, command)
    try:
        await until(lambda: notes.exists() and notes.stat().st_size > 24 * 300)
        os.kill(kafka.pid, signal.SIGSTOP)
        await until(lambda: spilled_files(spill))
        await asyncio.sleep(1.0)  # let the spill grow
    finally:
        writer.kill()
        killed_at = time.time()
        os.kill(kafka.pid, signal.SIGCONT)
        await asyncio.to_thread(writer.wait)
    second = PredictionLog(kafka.bootstrap, spill)
    await second.start()
    await until(lambda: second.spill_bytes == 0 and second.unacknowledged == 0)
    await second.stop()
    ledger = await read_topic(kafka.bootstrap, [endpoint])
    assert ledger.unmarked_repeats == 0
    assert set(ledger.applied.values()) == {1}
    noted = struct.iter_unpack("<16sd", whole_notes(notes))
    lost_batches = ledger.missing(boot_id)
    assert sum(len(each) for each in lost_batches.values()) <= 4
    lost = [at for prediction_id, at in noted if prediction_id not in ledger.applied]
    if not any(lost_batches.values()):
        # then only what was still gathering may be gone: 50 ms, and what a busy machine adds to them
        assert all(at > killed_at - 0.5 for at in lost)
    assert len(ledger.applied) > 300
