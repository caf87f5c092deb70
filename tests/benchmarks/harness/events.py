"""The prediction events of a run, read back from Kafka as a consumer that keeps the rule for repeats sees them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from phantom_contracts.topics import PREDICTIONS


@dataclass
class Events:
    """Prediction id → how often it was logged, batches that came twice left out once they bear the mark."""

    seen: Counter[bytes] = field(default_factory=Counter)
    batches: set[tuple[str, int, int]] = field(default_factory=set)

    def add(self, partition: int, value: bytes, is_marked: bool) -> None:
        """One record of the topic."""
        from phantom.predictions.v1 import prediction_batch_pb2 as predictions

        batch = predictions.PredictionBatch.FromString(value)
        key = (batch.boot_id, partition, batch.sequence)
        if is_marked and key in self.batches:
            return
        self.batches.add(key)
        ids = batch.prediction_ids
        self.seen.update(
            ids[16 * number : 16 * number + 16]
            for number, (status, offset) in enumerate(zip(batch.statuses, batch.row_offsets, strict=True))
            if status == 0 and offset == 0
        )

    @property
    def doubled(self) -> int:
        """Records too many."""
        return sum(self.seen.values()) - len(self.seen)


def read(bootstrap: str) -> Events:
    """Everything in the topic."""
    return asyncio.run(_read(bootstrap))


async def _read(bootstrap: str) -> Events:
    events = Events()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(PREDICTIONS.name, number) for number in range(PREDICTIONS.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while [each for each in partitions if await consumer.position(each) < ends[each]]:
            found = await consumer.getmany(timeout_ms=500, max_records=2_000)
            for partition, records in found.items():
                for record in records:
                    marks = dict(record.headers)
                    events.add(partition.partition, record.value, "phantom_maybe_sent" in marks)
    finally:
        await consumer.stop()
    return events
