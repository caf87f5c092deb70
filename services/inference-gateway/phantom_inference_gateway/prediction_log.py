"""The prediction log: what was answered, to `phantom.predictions.v1`, exactly once in effect (contracts §7).

`record` puts an answer into its endpoint's open batch, which closes after 50 ms, 512 rows or 512 KiB. A closed
batch gets the next number of its *partition*: sequences run 1, 2, 3, … per (boot id, partition), the partition
being the one that Kafka's default partitioner gives the key `<workspace>/<endpoint>`; batches are sent to it
explicitly. So a consumer that keeps the applied sequences per boot id and partition as ranges sees no gaps but
for batches that were dropped or are still to come.

Watermarks: every batch says that no record with an earlier answer time will follow it. While records of the
endpoint wait (here, in the spill, at the producer) that is the oldest one's time, else now; an answer time is
stamped by `record` and never lies before what was promised. Each routed endpoint gets an empty batch every 5 s,
behind its records. The last one, at shutdown, promises two windows ahead: nothing will follow.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path

from aiokafka.partitioner import DefaultPartitioner

from phantom_contracts.topics import PREDICTIONS
from phantom_inference_gateway.batches import MAX_BLOCK_BYTES, MAX_ROWS, Batch, BatchBuilder, parts_of
from phantom_inference_gateway.calls import Entry, Part
from phantom_inference_gateway.deliveries import Connection, DeliveryStats, Lane
from phantom_inference_gateway.endable import EndableProducer
from phantom_inference_gateway.spill import Spill
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

CLOSE_AFTER_S = 0.05
WATERMARK_EVERY_S = 5.0
SPILL_BYTES = 1024**3
_WINDOW_US = 5_000_000
_SYNC_EVERY_S = 1.0
_TAKE_OVER_EVERY_S = 10.0
# Empty batches that an endpoint gets after it was last routed or answered: its last windows must be passed.
_TICKS_AFTER_LAST = 4

_partition_of = DefaultPartitioner()
_PARTITIONS = list(range(PREDICTIONS.partitions))


class _Endpoint:
    """What the log knows of one endpoint."""

    __slots__ = ("builder", "floor_us", "key", "mins", "partition", "ticks_left", "timer", "unsettled")

    def __init__(self, key: str) -> None:
        self.key = key
        self.partition = int(_partition_of(key.encode(), _PARTITIONS, _PARTITIONS))
        self.builder = BatchBuilder(key)
        self.timer: asyncio.TimerHandle | None = None
        # Neither a record nor a watermark may be earlier: the last stamp, or the last promise.
        self.floor_us = 0
        # Sequences of closed batches with records that are neither acknowledged nor dropped, in order.
        self.unsettled: dict[int, None] = {}
        # (sequence, earliest answer time of it and of all after it), both rising: the head is the minimum.
        self.mins: deque[tuple[int, int]] = deque()
        self.ticks_left = _TICKS_AFTER_LAST

    def close(self, sequence: int, oldest_us: int) -> None:
        """A batch with records is on its way."""
        self.unsettled[sequence] = None
        while self.mins and self.mins[-1][1] >= oldest_us:
            self.mins.pop()
        self.mins.append((sequence, oldest_us))

    def settle(self, sequence: int) -> None:
        """It arrived, or never will."""
        self.unsettled.pop(sequence, None)
        if not self.unsettled:
            self.mins.clear()
            return
        first = next(iter(self.unsettled))
        while self.mins[0][0] < first:
            self.mins.popleft()

    def watermark(self, now_us: int) -> int:
        """The time before which no further record will be, counting what waits outside the builder."""
        now_us = max(now_us, self.floor_us)
        return min(now_us, self.mins[0][1]) if self.mins else now_us


class PredictionLog:
    """A part. `spill_dir` is `<data>/gateway/<worker>/spill`; the spills of workers that are gone are taken over."""

    name = "prediction-log"

    def __init__(
        self,
        bootstrap: str,
        spill_dir: Path,
        *,
        boot_id: str | None = None,
        spill_bytes: int = SPILL_BYTES,
        drain_timeout_s: float = 5.0,
        request_timeout_s: float = 30.0,
    ) -> None:
        self.boot_id = boot_id or str(uuid.uuid4())
        self._drain_timeout_s = drain_timeout_s
        self._endpoints: dict[str, _Endpoint] = {}
        self._routed: frozenset[str] = frozenset()
        self._sequences = [0] * PREDICTIONS.partitions
        self._spill = Spill(spill_dir, PREDICTIONS.partitions, spill_bytes)
        self._connection = Connection(bootstrap, f"gateway-log-{self.boot_id}", request_timeout_s)
        self._lanes = [Lane(each, self._spill, self, self._connection) for each in _PARTITIONS]
        self._connection.on_connected = self._wake
        self._connection.on_ended = self._take_back
        self._tasks = [
            Task("prediction-log:watermarks", self._keep_promising),
            Task("prediction-log:spill", self._keep_house),
        ]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_final = False

    @property
    def stats(self) -> DeliveryStats:
        """Counts since start."""
        return self._connection.stats

    @property
    def spill_bytes(self) -> int:
        """Bytes in the spill now."""
        return self._spill.bytes

    @property
    def damaged(self) -> int:
        """Spilled batches that could not be read back."""
        return self._spill.damaged

    @property
    def unacknowledged(self) -> int:
        """Batches at the producer, or about to be."""
        return sum(lane.unacknowledged for lane in self._lanes)

    def counters(self) -> dict[str, tuple[str, Callable[[], float]]]:
        """Name without prefix → (help, value), for the gateway's metrics."""
        stats = self.stats
        return {
            "log_records": ("Answers put into the prediction log", lambda: stats.records),
            "log_batches_sent": ("Batches handed to Kafka's producer", lambda: stats.batches_sent),
            "log_batches_maybe_sent": ("Of these, marked as maybe sent", lambda: stats.batches_maybe_sent),
            "log_batches_spilled": ("Batches written to the spill", lambda: stats.batches_spilled),
            "log_batches_dropped": ("Batches lost: beyond the spill's bound", lambda: stats.batches_dropped),
            "log_records_dropped": ("Records lost", lambda: stats.records_dropped),
            "log_batches_damaged": ("Spilled batches that could not be read", lambda: self.damaged),
            "log_producers": ("Producers made: more than one means replaced", lambda: stats.producers),
        }

    def gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        """As `counters`, of what may fall."""
        return {
            "log_spill_bytes": ("Bytes in the spill", lambda: self.spill_bytes),
            "log_batches_unacknowledged": (
                "Batches that Kafka has not confirmed",
                lambda: self.unacknowledged,
            ),
        }

    async def start(self) -> None:
        """Never waits for Kafka. Raises `Refused` where another process holds the spill folder."""
        await self._spill.open()
        self._take_over()
        self._loop = asyncio.get_running_loop()
        for task in (self._connection.task, *(lane.task for lane in self._lanes), *self._tasks):
            await task.start()
        self._wake()

    async def stop(self) -> None:
        """Close every batch, send for at most `drain_timeout_s`, leave the rest in the spill."""
        for endpoint in list(self._endpoints.values()):
            self._close(endpoint)
        self._loop, self._is_final = None, True
        for task in self._tasks:
            await task.stop()
        for endpoint in self._endpoints.values():
            self._lanes[endpoint.partition].due[endpoint.key] = None
        self._wake()
        await self._drain()
        for lane in self._lanes:
            await lane.task.stop()
            lane.give_up()
        await self._connection.stop()
        self._spill.close()

    def set_routed(self, endpoint_keys: Collection[str]) -> None:
        """The endpoints (`<workspace>/<endpoint>`) that get an empty batch every 5 s."""
        self._routed = frozenset(endpoint_keys)
        for key in self._routed:
            if key not in self._endpoints:
                self._endpoints[key] = _Endpoint(key)

    def record(self, entry: Entry) -> None:
        """Log one answer. Never blocks, never raises."""
        try:
            if self._loop is None:
                self.stats.on_dropped(1, "the prediction log is not running", batches=0)
                return
            endpoint = self._endpoints.get(entry.endpoint_key)
            if endpoint is None:
                endpoint = self._endpoints[entry.endpoint_key] = _Endpoint(entry.endpoint_key)
            now_us = time.time_ns() // 1000
            if now_us < endpoint.floor_us:
                now_us = endpoint.floor_us
            endpoint.floor_us = now_us
            self.stats.records += 1
            parts = entry.parts
            if len(parts) == 1 and parts[0][2] <= MAX_ROWS and len(parts[0][0]) <= MAX_BLOCK_BYTES:
                self._add(endpoint, entry, now_us, parts[0])
            else:
                for part in parts_of(entry):
                    self._add(endpoint, entry, now_us, part)
        except Exception as error:
            self.stats.on_dropped(1, f"a prediction could not be logged: {error!r}", batches=0)

    def _add(self, endpoint: _Endpoint, entry: Entry, now_us: int, part: Part) -> None:
        builder = endpoint.builder
        if not builder.add(entry, now_us, part):
            self._close(endpoint)
            builder.add(entry, now_us, part)
        if entry.traceparent and not builder.traceparent:
            builder.traceparent = entry.traceparent
        if builder.is_full:
            self._close(endpoint)
        elif endpoint.timer is None and self._loop is not None:
            endpoint.timer = self._loop.call_later(CLOSE_AFTER_S, self._close, endpoint)

    def _close(self, endpoint: _Endpoint) -> None:
        if endpoint.timer is not None:
            endpoint.timer.cancel()
            endpoint.timer = None
        builder = endpoint.builder
        if not len(builder):
            return
        # What follows may carry the very time of the last record here (the rest of a call): not later than that.
        watermark_us = endpoint.watermark(endpoint.floor_us)
        batch = self._encode(endpoint, watermark_us)
        endpoint.ticks_left = _TICKS_AFTER_LAST
        oldest_us = builder.oldest_us
        builder.clear()
        if batch is not None:
            endpoint.close(batch.sequence, oldest_us)
            self._lanes[endpoint.partition].offer(batch)

    def _encode(self, endpoint: _Endpoint, watermark_us: int) -> Batch | None:
        builder, partition = endpoint.builder, endpoint.partition
        sequence = self._sequences[partition] = self._sequences[partition] + 1
        try:
            try:
                value = builder.encode(self.boot_id, sequence, watermark_us)
            except ValueError:
                builder.mend()
                value = builder.encode(self.boot_id, sequence, watermark_us)
        except (ValueError, TypeError) as error:
            self.stats.on_dropped(len(builder), f"a batch cannot be encoded: {error!r}")
            return None
        return Batch(
            partition,
            endpoint.key,
            self.boot_id,
            sequence,
            value,
            len(builder),
            time.time_ns() // 1_000_000,
            traceparent=builder.traceparent,
        )

    # What lanes ask and tell (BatchSource)

    def watermark(self, key: str) -> Batch:
        """An empty batch, numbered now."""
        endpoint = self._endpoints[key]
        now_us = time.time_ns() // 1000
        if self._is_final:
            watermark_us = max(now_us, endpoint.floor_us) + 2 * _WINDOW_US
        else:
            watermark_us = endpoint.watermark(now_us)
            if len(endpoint.builder):
                watermark_us = min(watermark_us, endpoint.builder.oldest_us)
            endpoint.floor_us = max(endpoint.floor_us, watermark_us)
        partition = endpoint.partition
        sequence = self._sequences[partition] = self._sequences[partition] + 1
        value = BatchBuilder(key).encode(self.boot_id, sequence, watermark_us)
        return Batch(partition, key, self.boot_id, sequence, value, 0, now_us // 1000)

    def on_settled(self, batch: Batch, *, dropped: bool) -> None:
        if batch.boot_id != self.boot_id or not batch.records:
            return
        if (endpoint := self._endpoints.get(batch.key)) is not None:
            endpoint.settle(batch.sequence)

    # Background work

    async def _keep_promising(self) -> None:
        while True:
            await asyncio.sleep(WATERMARK_EVERY_S)
            for endpoint in list(self._endpoints.values()):
                self._promise(endpoint)
            self._wake()

    def _promise(self, endpoint: _Endpoint) -> None:
        if endpoint.key in self._routed:
            endpoint.ticks_left = _TICKS_AFTER_LAST
        if endpoint.ticks_left > 0:
            endpoint.ticks_left -= 1
            self._lanes[endpoint.partition].due[endpoint.key] = None
        elif not (len(endpoint.builder) or endpoint.unsettled):
            lane = self._lanes[endpoint.partition]
            if endpoint.key not in lane.due:
                del self._endpoints[endpoint.key]

    async def _keep_house(self) -> None:
        since_take_over = 0.0
        while True:
            await asyncio.sleep(_SYNC_EVERY_S)
            await self._spill.sync()
            since_take_over += _SYNC_EVERY_S
            if since_take_over >= _TAKE_OVER_EVERY_S:
                since_take_over = 0.0
                self._take_over()

    def _take_over(self) -> None:
        """Adopt what workers that are gone have left beside this one's folder."""
        folder = self._spill.folder
        taken = 0
        for other in folder.parent.parent.glob(f"*/{folder.name}"):
            try:
                taken += self._spill.take_over(other)
            except OSError as error:
                log.error(
                    "cannot take over a spill", action="take_over_failed", folder=str(other), error=str(error)
                )
        if taken:
            self._wake()

    def _take_back(self, producer: EndableProducer) -> None:
        for lane in self._lanes:
            lane.take_back(producer)

    def _wake(self) -> None:
        for lane in self._lanes:
            lane.wake()

    async def _drain(self) -> None:
        """Until everything has arrived, Kafka is away, or time is up."""
        deadline = asyncio.get_running_loop().time() + self._drain_timeout_s
        for lane in self._lanes:
            while not lane.is_idle and self._connection.producer is not None:
                lane.is_changed.clear()
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return
                try:
                    await asyncio.wait_for(lane.is_changed.wait(), min(left, 0.1))
                except TimeoutError:
                    continue
