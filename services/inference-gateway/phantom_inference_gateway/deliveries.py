"""Closed batches to Kafka: in order a partition, at most four unacknowledged, the rest through the spill.

A batch is handed to the producer once and not again while its future is pending. If its future fails, the producer
is ended, so that nothing of it can be sent any more; what it had not had acknowledged is made durable in the spill,
marked `maybe_sent`, and sent first through a new producer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from aiokafka.errors import KafkaError, KafkaTimeoutError, UnknownTopicOrPartitionError

from phantom_contracts.topics import PREDICTION_BATCH_TYPE, PREDICTIONS
from phantom_inference_gateway.batches import Batch
from phantom_inference_gateway.endable import EndableProducer
from phantom_inference_gateway.segments import Segment
from phantom_inference_gateway.spill import Spill, SpillLane
from phantom_platform.cloudevents import Headers
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

SOURCE = "phantom/inference-gateway"
MAX_UNACKNOWLEDGED = 4
MAX_WAIT_S = 1.0
"""Once the oldest batch of a partition has waited so long, new ones go to the spill."""
MAX_HANDED_BYTES = 1_800_000
"""Batches of one partition merge into one Kafka batch while they wait; the topic takes 2 MiB."""
_MERGED_BYTES = 1_900_000
_SEND_PATIENCE_S = 5.0
_MAX_BACKOFF_S = 2.0


class BatchSource(Protocol):
    """What deliveries ask of, and tell to, the log."""

    def watermark(self, key: str) -> Batch:
        """An empty batch with the endpoint's present watermark, numbered in order."""

    def on_settled(self, batch: Batch, *, dropped: bool) -> None:
        """A batch was acknowledged, or dropped for good."""


@dataclass(slots=True, eq=False)
class _Item:
    """A batch on its way. With a segment it is on disk, without one only here."""

    batch: Batch
    segment: Segment | None
    since: float
    producer: Any = None
    is_acknowledged: bool = False


class Lane:
    """One partition."""

    def __init__(self, partition: int, spill: Spill, source: BatchSource, connection: Connection) -> None:
        self._partition = partition
        self._spill = spill
        self._spilled: SpillLane = spill.lanes[partition]
        self._source = source
        self._connection = connection
        # To be sent before what is in the spill; with `_handed` at most four, but for returned ones.
        self._waiting: deque[_Item] = deque()
        self._handed: list[_Item] = []
        # Endpoints that are due an empty batch once nothing else is waiting.
        self.due: dict[str, None] = {}
        self._wake = asyncio.Event()
        self.is_changed = asyncio.Event()
        self.task = Task(f"prediction-log:{partition}", self._run)

    @property
    def unacknowledged(self) -> int:
        """Batches handed to the producer, or about to be."""
        return len(self._handed) + len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not (self._handed or self._waiting or self.due) and self._spilled.is_empty

    def offer(self, batch: Batch) -> None:
        """Send a new batch, behind all earlier ones. Spills it, or drops it, where it cannot go now."""
        if self._may_go_directly():
            self._waiting.append(_Item(batch, None, asyncio.get_running_loop().time()))
        else:
            self._to_spill(batch)
        self._wake.set()

    def wake(self) -> None:
        """Look again for something to send."""
        self._wake.set()

    def take_back(self, producer: EndableProducer) -> None:
        """`producer` is gone: what it had not had acknowledged is to be sent again, marked."""
        returned = [item for item in self._handed if item.producer is producer]
        self._handed = [item for item in self._handed if item.producer is not producer]
        for item in returned:
            item.batch.maybe_sent = True
        self._make_durable(returned)
        self._waiting.extendleft(reversed(returned))
        self._wake.set()

    def give_up(self) -> None:
        """At shutdown: leave everything unsent, and unacknowledged, in the spill for the next process."""
        for item in self._handed:
            item.batch.maybe_sent = True
        self._make_durable([*self._handed, *self._waiting])
        self._handed.clear()
        self._waiting.clear()
        for key in self.due:
            self._to_spill(self._source.watermark(key))
        self.due.clear()

    def _may_go_directly(self) -> bool:
        if self._connection.producer is None or not self._spilled.is_empty:
            return False
        if self.unacknowledged >= MAX_UNACKNOWLEDGED:
            return False
        oldest = self._handed[0] if self._handed else self._waiting[0] if self._waiting else None
        return oldest is None or asyncio.get_running_loop().time() - oldest.since < MAX_WAIT_S

    def _to_spill(self, batch: Batch) -> None:
        try:
            if self._spill.has_room(len(batch.value)):
                self._spilled.append(batch)
                self._connection.stats.batches_spilled += 1
                return
            reason = f"the spill holds its {self._spill.limit_bytes} bytes"
        except OSError as error:
            reason = f"the spill cannot be written: {error}"
        self._drop(batch, reason)

    def _make_durable(self, items: list[_Item]) -> None:
        homeless = [item for item in items if item.segment is None]
        if not homeless:
            return
        try:
            segment = self._spilled.push_front([item.batch for item in homeless])
        except OSError as error:
            log.error(
                "cannot write to the spill", action="spill_failed", error=str(error), batches=len(homeless)
            )
            return
        self._connection.stats.batches_spilled += len(homeless)
        for item in homeless:
            item.segment = segment

    def _drop(self, batch: Batch, reason: str) -> None:
        self._connection.stats.on_dropped(batch.records, reason)
        self._source.on_settled(batch, dropped=True)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (producer := self._connection.producer) is not None:
                item = self._next()
                if item is None:
                    break
                if not await self._hand(producer, item):
                    break

    def _next(self) -> _Item | None:
        """What to hand over now, if there is room for it at the producer."""
        if len(self._handed) >= MAX_UNACKNOWLEDGED:
            return None
        if not self._waiting and (item := self._fetch()) is not None:
            self._waiting.append(item)
        if not self._waiting:
            return None
        handed_bytes = sum(len(item.batch.value) for item in self._handed)
        if self._handed and handed_bytes + len(self._waiting[0].batch.value) > MAX_HANDED_BYTES:
            return None
        return self._waiting[0]

    def _fetch(self) -> _Item | None:
        now = asyncio.get_running_loop().time()
        if (read := self._spilled.read()) is not None:
            return _Item(*read, now)
        if self.due:
            key = next(iter(self.due))
            del self.due[key]
            return _Item(self._source.watermark(key), None, now)
        self.is_changed.set()
        return None

    async def _hand(self, producer: EndableProducer, item: _Item) -> bool:
        """Whether the producer took it. It stays the first of the waiting until then."""
        batch = item.batch
        try:
            async with asyncio.timeout(_SEND_PATIENCE_S):
                future = await producer.send(
                    PREDICTIONS.name,
                    batch.value,
                    batch.key.encode(),
                    partition=batch.partition,
                    headers=headers_of(batch),
                )
        except (KafkaTimeoutError, UnknownTopicOrPartitionError, TimeoutError, AssertionError) as error:
            # Not taken, and the producer may be well: the topic or the partition is not there (yet).
            log.warning("cannot hand over predictions", action="predictions_wait", error=repr(error))
            asyncio.get_running_loop().call_later(_MAX_BACKOFF_S, self._wake.set)
            return False
        except (KafkaError, OSError) as error:
            self._connection.replace(producer, error)
            return False
        if producer.has_ended:  # meanwhile: its future would wait for ever
            return False
        item.producer, item.since = producer, asyncio.get_running_loop().time()
        self._waiting.remove(item)
        self._handed.append(item)
        self._connection.stats.on_handed(batch)
        future.add_done_callback(lambda done: self._on_done(item, producer, done))
        return True

    def _on_done(self, item: _Item, producer: EndableProducer, done: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if item not in self._handed:  # returned meanwhile
            return
        if error is not None:
            self._connection.replace(producer, error)
            return
        self._handed.remove(item)
        if item.segment is not None:
            self._spilled.acknowledge(item.segment)
        self._connection.stats.batches_acknowledged += 1
        self._source.on_settled(item.batch, dropped=False)
        self.is_changed.set()
        self._wake.set()


@dataclass(slots=True)
class DeliveryStats:
    """Counts since start, for metrics."""

    records: int = 0
    batches_sent: int = 0
    batches_maybe_sent: int = 0
    batches_acknowledged: int = 0
    batches_spilled: int = 0
    batches_dropped: int = 0
    records_dropped: int = 0
    producers: int = 0
    _said_at: float = -1e9

    def on_handed(self, batch: Batch) -> None:
        self.batches_sent += 1
        self.batches_maybe_sent += batch.maybe_sent

    def on_dropped(self, records: int, reason: str, batches: int = 1) -> None:
        """Count what is lost, and say so at most every 10 s."""
        self.batches_dropped += batches
        self.records_dropped += records
        now = time.monotonic()
        if now - self._said_at >= 10.0:
            self._said_at = now
            log.error(
                "predictions are being dropped",
                action="predictions_dropped",
                reason=reason,
                records_dropped=self.records_dropped,
                batches_dropped=self.batches_dropped,
            )


class Connection:
    """The producer in use, and its replacement."""

    def __init__(self, bootstrap: str, client_id: str, request_timeout_s: float) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._request_timeout_s = request_timeout_s
        self.producer: EndableProducer | None = None
        # One that failed and is being ended.
        self._retired: EndableProducer | None = None
        self.stats = DeliveryStats()
        self._broken = asyncio.Event()
        self.on_connected: Callable[[], None] = lambda: None
        self.on_ended: Callable[[EndableProducer], None] = lambda _: None
        self.task = Task("prediction-log:connection", self._run)

    def replace(self, producer: EndableProducer, error: BaseException) -> None:
        """This producer failed a batch; it must send no other."""
        if producer is not self.producer:
            return
        log.warning("replacing the producer of predictions", action="producer_replaced", error=repr(error))
        self.producer = None
        self._retired = producer
        self._broken.set()

    async def stop(self) -> None:
        """End the producer, acknowledged or not."""
        await self.task.stop()
        for producer in (self.producer, self._retired):
            if producer is not None:
                await producer.end()
        self.producer = self._retired = None

    async def _run(self) -> None:
        while True:
            self.producer = await self._connected()
            self.stats.producers += 1
            self.on_connected()
            await self._broken.wait()
            self._broken.clear()
            if (retired := self._retired) is not None:
                await retired.end()
                self._retired = None
                self.on_ended(retired)

    async def _connected(self) -> EndableProducer:
        delay = 0.1
        while True:
            producer = self._make()
            try:
                async with asyncio.timeout(self._request_timeout_s):
                    await producer.start()
                    await producer.partitions_for(PREDICTIONS.name)
                return producer
            except (KafkaError, OSError, TimeoutError) as error:
                await producer.end()
                log.warning("waiting for Kafka", action="kafka_wait", reason=repr(error))
            except asyncio.CancelledError:
                await producer.end()
                raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_BACKOFF_S)

    def _make(self) -> EndableProducer:
        return EndableProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=_MERGED_BYTES,
            max_request_size=2 * 1024 * 1024,
            request_timeout_ms=int(self._request_timeout_s * 1000),
            retry_backoff_ms=250,
        )


def headers_of(batch: Batch) -> Headers:
    """CloudEvents attributes, the same each time a batch is sent, and the mark."""
    closed_at = datetime.fromtimestamp(batch.time_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", batch.id.encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_type", PREDICTION_BATCH_TYPE.encode()),
        ("ce_time", closed_at.encode()),
        ("content-type", PREDICTIONS.content_type.encode()),
    ]
    if batch.traceparent:
        headers.append(("traceparent", batch.traceparent.encode()))
    if batch.maybe_sent:
        headers.append(("phantom_maybe_sent", b"true"))
    return headers
