"""What a consumer of the prediction topic does, and what a writer process leaves behind. Used by the tests."""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from phantom.predictions.v1.prediction_batch_pb2 import Block, PredictionBatch
from phantom_contracts.topics import PREDICTIONS
from phantom_inference_gateway.calls import Entry

_numbers = itertools.count()
BLOCK = Block(rows=16, numbers=bytes(16 * 8 * 4), number_width=8, number_columns=["a", "b", "c", "d"])
BLOCK_BYTES = BLOCK.SerializeToString()


def new_entry(endpoint_key: str, *, block: bytes = BLOCK_BYTES, rows: int = 1) -> Entry:
    """An answered call with an id of its own."""
    number = next(_numbers)
    return Entry(
        endpoint_key=endpoint_key,
        prediction_id=os.urandom(16),
        request_id=f"request-{number}",
        unit=f"N{number % 100}",
        assigned_revision="m-prod.1",
        served_revision="m-prod.1",
        served_replica="m-prod.1-a",
        arm="control",
        decision=1,
        route_version=1,
        experiment_version=0,
        status=0,
        received_us=time.time_ns() // 1000,
        parts=((block, number % 16, rows, 0),),
    )


@dataclass
class Ledger:
    """The topic as a consumer with the rule of contracts §7 sees it."""

    # prediction id → times applied
    applied: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    # (boot id, partition) → sequences in order of arrival, applied ones only
    sequences: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    # endpoint key → (boot id, records, watermark_us, answer times) in order of arrival
    batches: dict[str, list[tuple[str, int, int, list[int]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    headers: list[dict[str, bytes]] = field(default_factory=list)
    marked: int = 0
    repeats: int = 0
    # Repeats that bore no mark: a consumer that trusts the mark counts them twice.
    unmarked_repeats: int = 0

    def add(self, partition: int, headers: dict[str, bytes], batch: PredictionBatch) -> None:
        known = self.sequences[batch.boot_id, partition]
        is_marked = headers.get("phantom_maybe_sent") == b"true"
        self.marked += is_marked
        if batch.sequence in known:
            self.repeats += 1
            self.unmarked_repeats += not is_marked
            return
        known.append(batch.sequence)
        self.headers.append(headers)
        for at in range(0, len(batch.prediction_ids), 16):
            self.applied[batch.prediction_ids[at : at + 16]] += 1
        key = f"{batch.workspace}/{batch.endpoint}"
        self.batches[key].append(
            (batch.boot_id, len(batch.request_ids), batch.watermark_us, list(batch.answered_us))
        )

    def missing(self, boot_id: str) -> dict[int, list[int]]:
        """Partition → sequences below the highest that never came."""
        return {
            partition: sorted(set(range(1, max(known) + 1)) - set(known))
            for (boot, partition), known in self.sequences.items()
            if boot == boot_id and known
        }


async def read_topic(bootstrap: str, endpoint_keys: Iterable[str]) -> Ledger:
    """Everything in the topic about some endpoints, from its beginning to its present end."""
    wanted = {key.encode() for key in endpoint_keys}
    ledger = Ledger()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, max_partition_fetch_bytes=4 << 20)
    await consumer.start()
    try:
        partitions = [TopicPartition(PREDICTIONS.name, each) for each in range(PREDICTIONS.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    # Other tests may have left under other keys what is no batch.
                    if record.key in wanted:
                        batch = PredictionBatch.FromString(record.value)
                        assert record.key == f"{batch.workspace}/{batch.endpoint}".encode()
                        ledger.add(partition.partition, dict(record.headers), batch)
        return ledger
    finally:
        await consumer.stop()
