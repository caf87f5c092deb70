"""The relay publishes what a service's outbox holds, in id order, and deletes what Kafka acknowledged.

It never pages by id: ids are drawn before commit, so whatever is unpublished is selected, except what is being
sent. One relay a service leads, by an advisory lock of its connection; one that has lost it unawares may repeat
events, which versions and inboxes make harmless. A partition has one batch under way at a time, so a batch that
fails is repeated before anything after it: order per key holds through every outage.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from phantom_platform import metrics
from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.lifecycle import Task
from phantom_platform.outgoing import Outgoing, unpack_headers
from phantom_platform.telemetry import logs

log = logs.get(__name__)

POLL_S = 0.5
LEADER_POLL_S = 0.5
DEPTH_EVERY_S = 5.0
DRAIN_S = 5.0
LOOK_UP_S = 1.0
MAX_ROWS = 500
GATHER_S_PER_ROW = 0.0007
GATHER_MOST_S = 0.02
TEMPORARY_PAUSE_S = 0.2
PERMANENT_PAUSE_S = 5.0
MAX_IN_FLIGHT = 4_000
MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024
# A relay that does not lead, or an event that is not published, for so long is worth a look.
LATE_S = 30.0

_LEAD = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
_NEXT = """
WITH acknowledged AS (DELETE FROM outbox WHERE id = ANY($1))
SELECT id, topic, key, value, headers FROM outbox
WHERE id <> ALL($2) AND topic <> ALL($3) ORDER BY id LIMIT $4
"""
_DEPTH = """
SELECT count(*) AS depth, coalesce(extract(epoch FROM clock_timestamp() - min(at)), 0)::float AS oldest_s FROM outbox
"""


class _Database(Protocol):
    schema: str
    source: str
    relay_wake: asyncio.Event | None

    @property
    def channel(self) -> str: ...
    def session(self) -> AbstractAsyncContextManager[Any]: ...


class _Producer(Protocol):
    async def partitions(self, topic: str) -> list[int]: ...
    def choose(self, key: bytes | None, partitions: list[int]) -> int: ...
    async def send_batch(self, topic: str, partition: int, records: list[Outgoing]) -> int: ...


@dataclass
class _Lane:
    """What waits for one partition, oldest first."""

    queue: deque[tuple[int, Outgoing]] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class OutboxRelay:
    """A part: one `Database`'s outbox into Kafka. Stops after all that was committed is in Kafka, or 5 s; events of
    topics that Kafka does not know are left to the next start."""

    def __init__(
        self, database: _Database, producer: _Producer, *, registry: CollectorRegistry | None = None
    ) -> None:
        self.name = f"relay:{database.schema}"
        self._database = database
        self._producer = producer
        self._metrics = metrics.of(registry)
        self._service = database.source.removeprefix("phantom/")
        self._task = Task(self.name, self._run)
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._partitions: dict[str, list[int]] = {}
        self._unknown: dict[str, asyncio.Task[None]] = {}
        self._look_ups_until = 0.0
        self._in_flight: dict[int, int] = {}
        self._acknowledged: list[int] = []
        self._wake = asyncio.Event()
        self._is_draining = False
        self._drained = asyncio.Event()
        self._depth = 0
        self._oldest_s = 0.0
        self._follows_since = time.monotonic()
        self._waits_for = "it has just been started"
        self.is_leading = False

    def attention(self) -> list[str]:
        """Events that do not leave, as of a few seconds ago."""
        followed_s = 0.0 if self.is_leading else time.monotonic() - self._follows_since
        if followed_s >= LATE_S:
            return [
                f"events of {self._service} are not sent from here for {followed_s:.0f} s: {self._waits_for}"
            ]
        if self._oldest_s >= LATE_S:
            return [
                f"{self._depth} event(s) of {self._service} wait for Kafka, the oldest for {self._oldest_s:.0f} s"
            ]
        return []

    async def start(self) -> None:
        await self._task.start()

    async def stop(self) -> None:
        self._is_draining = True
        self._look_ups_until = time.monotonic() + LOOK_UP_S
        self._wake.set()
        if self.is_leading:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), DRAIN_S)
        await self._task.stop()

    async def _run(self) -> None:
        while True:
            try:
                async with self._database.session() as connection:
                    await self._lead(connection)
            except Unavailable as error:
                self._waits_for = str(error)
                log.warning(
                    "relay waits for Postgres", action="relay_wait", relay=self.name, reason=str(error)
                )
                await asyncio.sleep(error.retry_after_s)

    async def _lead(self, connection: Any) -> None:
        await connection.add_listener(self._database.channel, lambda *_: self._wake.set())
        # Waiting in the database instead would hold back its vacuum.
        while not await connection.fetchval(_LEAD, f"phantom/relay/{self._database.schema}"):
            self._waits_for = "another process sends them"
            await asyncio.sleep(LEADER_POLL_S)
        # A deletion lost in a crash repeats an event, no more: it need not wait for the disk.
        await connection.execute("SET synchronous_commit = off")
        log.info("relay leads", action="relay_leads", relay=self.name)
        self._database.relay_wake = self._wake
        self.is_leading = True
        try:
            await self._publish(connection)
        finally:
            self.is_leading = False
            self._follows_since = time.monotonic()
            self._database.relay_wake = None
            await self._forget()

    async def _publish(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        next_depth = loop.time()
        while True:
            self._wake.clear()
            room = self._room()
            done, self._acknowledged = self._acknowledged, []
            found = await connection.fetch(_NEXT, done, list(self._in_flight), list(self._unknown), room)
            for row_id in done:
                del self._in_flight[row_id]
            for row in found:
                self._dispatch(row)
            if loop.time() >= next_depth:
                next_depth = loop.time() + DEPTH_EVERY_S
                self._depth, self._oldest_s = await connection.fetchrow(_DEPTH)
                self._metrics.outbox_depth.labels(self._service).set(self._depth)
            if self._is_draining and not (found or self._in_flight or self._is_looking_up()):
                self._drained.set()
            if room == 0 or len(found) < room:
                # The busier it is, the more a batch should carry: at 300 events/s this adds half a millisecond.
                await asyncio.sleep(min(len(found) * GATHER_S_PER_ROW, GATHER_MOST_S))
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        except TimeoutError:
            return

    def _is_looking_up(self) -> bool:
        return bool(self._unknown) and time.monotonic() < self._look_ups_until

    def _room(self) -> int:
        if sum(self._in_flight.values()) > MAX_IN_FLIGHT_BYTES:
            return 0
        return min(MAX_ROWS, MAX_IN_FLIGHT - len(self._in_flight))

    def _dispatch(self, row: Any) -> None:
        """Queue a row for its partition. Rows of a topic that Kafka does not know yet stay in the table."""
        topic: str = row["topic"]
        if topic in self._unknown:
            return
        partitions = self._partitions.get(topic)
        if partitions is None:
            self._unknown[topic] = asyncio.create_task(self._look_up(topic), name=f"{self.name}:look-up")
            return
        outgoing = Outgoing(topic, row["key"], row["value"], unpack_headers(row["headers"]))
        self._in_flight[row["id"]] = len(outgoing.value or b"")
        partition = self._producer.choose(outgoing.key, partitions)
        lane = self._lanes.setdefault((topic, partition), _Lane())
        lane.queue.append((row["id"], outgoing))
        if lane.task is None or lane.task.done():
            lane.task = asyncio.create_task(self._send(topic, partition, lane), name=f"{self.name}:{topic}")

    async def _look_up(self, topic: str) -> None:
        while topic not in self._partitions:
            try:
                self._partitions[topic] = await self._producer.partitions(topic)
            except PhantomError as error:
                await self._pause(topic, error)
        del self._unknown[topic]
        self._wake.set()

    async def _send(self, topic: str, partition: int, lane: _Lane) -> None:
        while lane.queue:
            waiting = [outgoing for _, outgoing in islice(lane.queue, MAX_ROWS)]
            try:
                count = await self._producer.send_batch(topic, partition, waiting)
            except PhantomError as error:
                await self._pause(topic, error)
                continue
            self._acknowledged.extend(lane.queue.popleft()[0] for _ in range(count))
            self._metrics.published.labels(self._service, topic).inc(count)
            self._wake.set()

    async def _pause(self, topic: str, error: PhantomError) -> None:
        """Events are never dropped: whatever is wrong, the same batch is tried again."""
        is_temporary = isinstance(error, Unavailable)
        report = log.warning if is_temporary else log.error
        report("relay repeats", action="relay_repeat", relay=self.name, topic=topic, reason=str(error))
        await asyncio.sleep(TEMPORARY_PAUSE_S if is_temporary else PERMANENT_PAUSE_S)

    async def _forget(self) -> None:
        """No longer leading: what is under way may arrive, and will be repeated by the next leader."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        tasks.extend(self._unknown.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lanes.clear()
        self._unknown.clear()
        self._in_flight.clear()
        self._acknowledged.clear()
