"""Compacted topics, read whole and followed: the last good record of each key.

A group-less consumer reads every partition from its beginning and is `current` once each position has reached
the end offset (comparing offsets of records would hang: a transaction's marker takes one too). Records that are
not newer than what was applied are ignored. A record that cannot be parsed or applied is counted and logged,
and the key keeps its last good one. While Kafka is away at the start, a snapshot serves, marked stale.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from phantom_contracts.topics import Topic
from phantom_platform import cloudevents, metrics
from phantom_platform.clock import Clock, SystemClock
from phantom_platform.errors import Invalid, Unavailable
from phantom_platform.kafka import snapshot as snapshots
from phantom_platform.kafka.closing import close
from phantom_platform.kafka.failures import CONNECTION_ERRORS, as_phantom
from phantom_platform.kafka.snapshot import Snapshot, Stored
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

T = TypeVar("T")

SNAPSHOT_EVERY_S = 1.0
# Tombstones live 7 days: a reader away longer may have missed one. A day less, for clocks and cleaners.
FORGET_AFTER_S = 6 * 86_400.0
RETRY_S = 0.5
# How often Kafka is asked whether it is still there, how long it may take to answer, and when its silence is said.
LOOK_EVERY_S = 3.0
LOOK_TIMEOUT_S = 3.0
LOST_AFTER_S = 10.0


class Projection(Generic[T]):
    """A part. `start` returns at once; await `current` where the whole topic is needed first.

    `parse(key, value, headers)` makes the value and raises on anything that is not one. `on_changed(key, value,
    version)` and `on_deleted(key, version)` apply it, and may be coroutine functions; an `Unavailable` of theirs is
    waited for. `on_lost(key)` is for who must know what Kafka has: the key stands in the snapshot and, read to its
    end, not in the topic any more; its version counts as new when it comes again. Without it the key is kept.
    """

    def __init__(
        self,
        topic: Topic,
        bootstrap: str,
        *,
        parse: Callable[[str, bytes, Mapping[str, bytes]], T],
        on_changed: Callable[[str, T, int], Awaitable[None] | None],
        on_deleted: Callable[[str, int], Awaitable[None] | None],
        on_lost: Callable[[str], None] | None = None,
        snapshot: Path | None = None,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if topic.kind != "compacted":
            raise ValueError(f"{topic.name} is a log: read it with Consumers")
        self.name = f"projection:{topic.name}"
        # Set when everything that was in the topic at the start has been applied; never cleared.
        self.current = asyncio.Event()
        # The version of each key's record that could not be applied, until a newer one is.
        self.bad: dict[str, int] = {}
        self._topic = topic
        self._bootstrap = bootstrap
        self._parse = parse
        self._on_changed = on_changed
        self._on_deleted = on_deleted
        self._on_lost = on_lost
        self._path = snapshot
        self._clock = clock or SystemClock()
        self._bad_records = metrics.of(registry).bad_records.labels(topic.name)
        self._task = Task(self.name, self._run)
        self._state = Snapshot()
        self._consumer: AIOKafkaConsumer | None = None
        self._moved = asyncio.Condition()
        self._is_dirty = False
        self._is_stopping = False
        self._next_save = 0.0
        self._heard_at = self._clock.monotonic()
        self._next_look = 0.0

    @property
    def is_stale(self) -> bool:
        """Whether what is known comes from a snapshot, or is nothing: Kafka has not been read to its end yet."""
        return not self.current.is_set()

    def attention(self) -> list[str]:
        """Versions that cannot be applied; whether what is served is from a snapshot, or Kafka is lost."""
        name = self._topic.name
        said = [
            f"{name}: version {version} of {key} cannot be applied; the last good one is kept"
            for key, version in self.bad.items()
        ]
        silent_s = self._clock.monotonic() - self._heard_at
        if self.is_stale and self._state.records:
            said.append(f"{name}: from a snapshot, Kafka has not been read since this process started")
        elif silent_s >= LOST_AFTER_S:
            said.append(
                f"{name}: nothing was heard from Kafka for {silent_s:.0f} s; what was read before is used"
            )
        return said

    async def start(self) -> None:
        """Applies the snapshot, if there is one, and begins to read."""
        if self._path is not None:
            found = await asyncio.to_thread(snapshots.load, self._path, self._topic.name)
            if found is not None:
                await self._apply_snapshot(found)
        await self._task.start()

    async def stop(self) -> None:
        self._is_stopping = True
        await self._task.stop()
        # A part of the topic says nothing of what is no longer there: the old snapshot is the better one.
        if self._is_dirty and self.current.is_set():
            await self._save()

    def version(self, key: str) -> int | None:
        """The version of `key` that was applied last, its deletion included."""
        stored = self._state.records.get(key)
        return None if stored is None else stored.version

    async def caught_up(self) -> None:
        """Returns when everything that is in the topic now has been applied. `Unavailable` while Kafka is away."""
        await self.current.wait()
        consumer = self._consumer
        if consumer is None:
            raise as_phantom(ConnectionError("not connected"), f"reading {self._topic.name}")
        try:
            ends = await consumer.end_offsets(consumer.assignment())
        except CONNECTION_ERRORS as error:
            raise as_phantom(error, f"reading {self._topic.name}") from error
        async with self._moved:
            await self._moved.wait_for(lambda: self._has_reached(ends))

    async def _run(self) -> None:
        # aiokafka swallows a cancellation that comes while it closes a client: the flag is what counts.
        while not self._is_stopping:
            try:
                await self._follow()
            except CONNECTION_ERRORS as error:
                log.warning("projection waits for Kafka", action="projection_wait", topic=self._topic.name,
                            reason=repr(error))  # fmt: skip
                await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * 1024 * 1024,
            request_timeout_ms=15_000,
        )
        try:
            await consumer.start()
            ends = await self._from_the_beginning(consumer)
            seen: set[str] = set()
            while not self._is_stopping:
                polled = await consumer.getmany(timeout_ms=20 if not self.current.is_set() else 500)
                for records in polled.values():
                    for record in records:
                        await self._take(record, seen)
                await self._progress(consumer, ends, seen)
                await self._look(consumer)
        finally:
            self._consumer = None
            await close(consumer)

    async def _from_the_beginning(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        places = [TopicPartition(self._topic.name, number) for number in range(self._topic.partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
        for place, end in ends.items():
            if end < self._state.offsets.get(place.partition, 0):
                log.warning("topic was made anew", action="topic_recreated", topic=self._topic.name)
        self._state.offsets = {place.partition: await consumer.position(place) for place in places}
        self._consumer = consumer
        return ends

    async def _look(self, consumer: AIOKafkaConsumer) -> None:
        """Whether Kafka still answers: a poll comes back empty either way."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        with suppress(*CONNECTION_ERRORS):
            await asyncio.wait_for(consumer.end_offsets(consumer.assignment()), LOOK_TIMEOUT_S)
            self._heard_at = self._clock.monotonic()

    async def _progress(
        self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], seen: set[str]
    ) -> None:
        for place in ends:
            self._state.offsets[place.partition] = await consumer.position(place)
        if not self.current.is_set() and self._has_reached(ends):
            await self._forget_deleted(seen)
            self.current.set()
            self._is_dirty = True
            log.info("projection is current", action="projection_current", topic=self._topic.name)
        async with self._moved:
            self._moved.notify_all()
        if self._is_dirty and self.current.is_set() and self._clock.monotonic() >= self._next_save:
            await self._save()

    def _has_reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        return all(self._state.offsets.get(place.partition, 0) >= end for place, end in ends.items())

    async def _take(self, record: ConsumerRecord, seen: set[str]) -> None:
        key = "?"
        try:
            key = (record.key or b"").decode()
            seen.add(key)
            version = cloudevents.version_in(record.headers)
            if version is None:
                raise Invalid(f"header {cloudevents.VERSION} is missing", code="undecodable")
            before = self.version(key)
            if before is None or version > before:
                await self._apply_patiently(key, Stored(record.value, dict(record.headers), version))
        except Exception as error:
            # Whatever is wrong with it, the other keys and the last good record stand.
            self._bad_records.inc()
            bad = cloudevents.as_texts(record.headers).get(cloudevents.VERSION, "")
            if bad.isascii() and bad.isdigit() and len(bad) <= 18:
                self.bad[key] = int(bad)
            log.error(
                "record of a compacted topic cannot be applied", action="projection_bad_record",
                topic=record.topic, partition=record.partition, offset=record.offset, key=key, version=bad[:20],
                reason=repr(error),
            )  # fmt: skip

    async def _apply_patiently(self, key: str, stored: Stored) -> None:
        """What is temporary (a reader's Postgres is away) is waited for: the record is not a bad one."""
        while True:
            try:
                return await self._apply(key, stored)
            except Unavailable as error:
                log.warning("projection waits for its reader", action="projection_reader_wait",
                            topic=self._topic.name, key=key, reason=str(error))  # fmt: skip
                await asyncio.sleep(error.retry_after_s)

    async def _apply(self, key: str, stored: Stored) -> None:
        if stored.value is None:
            result = self._on_deleted(key, stored.version)
        else:
            result = self._on_changed(key, self._parse(key, stored.value, stored.headers), stored.version)
        if inspect.isawaitable(result):
            await result
        self._state.records[key] = stored
        self.bad.pop(key, None)
        self._is_dirty = True

    async def _apply_snapshot(self, found: Snapshot) -> None:
        for key, stored in found.records.items():
            try:
                await self._apply(key, stored)
            except Exception as error:
                log.error("record of a snapshot cannot be applied", action="projection_bad_snapshot",
                          topic=self._topic.name, key=key, reason=repr(error))  # fmt: skip
        self._state.offsets = dict(found.offsets)
        self._state.saved_at = found.saved_at
        self._is_dirty = False

    async def _forget_deleted(self, seen: set[str]) -> None:
        """Keys of a snapshot that Kafka does not have: of an old one, their tombstones were compacted away."""
        is_old = self._clock.now().timestamp() - self._state.saved_at >= FORGET_AFTER_S
        if not is_old and self._on_lost is None:
            return
        for key in [key for key in self._state.records if key not in seen]:
            stored = self._state.records.pop(key)
            if self._on_lost is not None:
                self._on_lost(key)
            elif stored.value is not None:
                result = self._on_deleted(key, stored.version)
                if inspect.isawaitable(result):
                    await result

    async def _save(self) -> None:
        self._is_dirty = False
        self._next_save = self._clock.monotonic() + SNAPSHOT_EVERY_S
        if self._path is None:
            return
        self._state.saved_at = self._clock.now().timestamp()
        copy = Snapshot(dict(self._state.records), dict(self._state.offsets), self._state.saved_at)
        try:
            await asyncio.to_thread(snapshots.save, self._path, self._topic.name, copy)
        except OSError as error:
            self._is_dirty = True
            log.error("snapshot not saved", action="snapshot_failed", path=str(self._path), reason=str(error))
