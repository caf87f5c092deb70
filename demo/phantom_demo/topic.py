"""What the prediction topic really holds: every answered call's id, and how often."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_contracts.topics import PREDICTIONS


async def answered_in_topic(kafka: str, endpoint: str) -> Counter[str]:
    """Prediction id → times, over the whole topic; a batch that says it may have been sent before counts once."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(PREDICTIONS.name, p) for p in range(PREDICTIONS.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        return await _read(consumer, ends, endpoint)
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], endpoint: str) -> Counter[str]:
    found: Counter[str] = Counter()
    seen: set[tuple[str, int, int]] = set()
    while any([await consumer.position(tp) < end for tp, end in ends.items()]):
        for tp, records in (await consumer.getmany(timeout_ms=500)).items():
            for record in records:
                batch = wire.PredictionBatch.FromString(record.value)
                identity = (batch.boot_id, tp.partition, batch.sequence)
                is_repeat = identity in seen and is_marked(record.headers)
                if batch.endpoint == endpoint and not is_repeat:
                    seen.add(identity)
                    found.update(_answered(batch))
    return found


def is_marked(headers: Sequence[tuple[str, bytes]]) -> bool:
    """Whether a batch may have been sent before: only then is a second one no mistake."""
    return ("phantom_maybe_sent", b"true") in headers


def _answered(batch: wire.PredictionBatch) -> list[str]:
    """Ids of answers that are OK; a further part of a call is the same call."""
    ids = batch.prediction_ids
    return [
        str(uuid.UUID(bytes=ids[16 * i : 16 * i + 16]))
        for i, status in enumerate(batch.statuses)
        if status == 0 and batch.kinds[i] == wire.KIND_ANSWER and batch.row_offsets[i] == 0
    ]
