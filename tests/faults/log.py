"""What the prediction topic holds, with what a reader must know to count each batch once."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_contracts.topics import PREDICTIONS

Identity = tuple[str, int, int]


@dataclass
class Log:
    """One endpoint's part of the topic."""

    # Prediction id of an answer that is OK → times, each batch counted once.
    answered: Counter[str] = field(default_factory=Counter)
    batches: set[Identity] = field(default_factory=set)
    # Batches that are there a second time: marked `maybe_sent`, as they must be, or not.
    repeats: list[Identity] = field(default_factory=list)
    unmarked_repeats: list[Identity] = field(default_factory=list)

    @property
    def boots(self) -> set[str]:
        """Boot ids of the gateways that wrote it."""
        return {boot for boot, _, _ in self.batches}


def read_log(kafka: str, endpoint: str) -> Log:
    """Everything until the topic's end as it is now."""
    return asyncio.run(asyncio.wait_for(_read(kafka, endpoint), 60))


async def _read(kafka: str, endpoint: str) -> Log:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    found = Log()
    try:
        partitions = [TopicPartition(PREDICTIONS.name, p) for p in range(PREDICTIONS.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                for record in records:
                    batch = wire.PredictionBatch.FromString(record.value)
                    if batch.endpoint == endpoint:
                        _note(found, batch, tp.partition, dict(record.headers))
    finally:
        await consumer.stop()
    return found


def _note(found: Log, batch: wire.PredictionBatch, partition: int, headers: dict[str, bytes]) -> None:
    identity = (batch.boot_id, partition, batch.sequence)
    if identity in found.batches:
        is_marked = headers.get("phantom_maybe_sent") == b"true"
        (found.repeats if is_marked else found.unmarked_repeats).append(identity)
        return
    found.batches.add(identity)
    ids = batch.prediction_ids
    found.answered.update(
        str(uuid.UUID(bytes=ids[16 * i : 16 * i + 16]))
        for i, status in enumerate(batch.statuses)
        if status == 0 and batch.kinds[i] == wire.KIND_ANSWER and batch.row_offsets[i] == 0
    )
