"""A service's consumer group: polls, applies, commits offsets after the transaction that covers them.

A failing partition is paused and rewound to the record that failed; the others go on. Offsets are committed at
most every 200 ms: what a crash repeats, the inbox drops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry

from phantom_platform import inbox, metrics
from phantom_platform.clock import Clock
from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.kafka.apply import Applier, Outcome, Transactions
from phantom_platform.kafka.closing import close
from phantom_platform.kafka.failures import CONNECTION_ERRORS
from phantom_platform.kafka.retry import Retries, RetryPolicy
from phantom_platform.kafka.router import RawRecord, Router
from phantom_platform.kafka.topics import ensure_topics
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

COMMIT_EVERY_S = 0.2
PRUNE_EVERY_S = 3600.0
RECONNECT_S = 1.0
LAST_COMMIT_S = 3.0
MAX_POLL_RECORDS = 500


class Consumers:
    """A part. `start` returns at once: while Kafka or Postgres is away, records wait where they are."""

    def __init__(
        self,
        router: Router,
        database: Transactions,
        bootstrap: str,
        clock: Clock,
        *,
        retry: RetryPolicy | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.name = f"consumers:{router.group}"
        self._router = router
        self._database = database
        self._bootstrap = bootstrap
        self._clock = clock
        self._retries = Retries(retry or RetryPolicy())
        self._applier = Applier(router, database, self._verdict)
        self._metrics = metrics.of(registry)
        self._task = Task(self.name, self._run)
        self._applying = asyncio.Lock()
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self._next_commit = 0.0
        self._next_prune = 0.0
        self._epoch = 0
        self._is_stopping = False
        # Set while partitions are assigned to this process.
        self.assigned = asyncio.Event()

    async def start(self) -> None:
        await self._task.start()

    async def stop(self) -> None:
        """Finishes the poll under way, commits its offsets and leaves the group."""
        self._is_stopping = True
        await self._task.stop()

    async def _run(self) -> None:
        if not self._router.topics:
            raise ValueError(f"{self.name}: the router listens to nothing")
        # aiokafka swallows a cancellation that comes while it closes a client: the flag is what counts.
        while not self._is_stopping:
            try:
                await self._consume()
            except (*CONNECTION_ERRORS, Unavailable) as error:
                log.warning(
                    "consumers start anew", action="consumers_restart", group=self.name, reason=repr(error)
                )
                await asyncio.sleep(RECONNECT_S)

    async def _consume(self) -> None:
        graves = [topic.dead_letters(self._router.service) for topic in self._router.topics.values()]
        await ensure_topics(self._bootstrap, [*self._router.topics.values(), *graves])
        consumer = self._make()
        try:
            consumer.subscribe(list(self._router.topics), listener=_Listener(self, consumer))
            await consumer.start()
            while not self._is_stopping:
                await self._turn(consumer)
        finally:
            self.assigned.clear()
            with suppress(*CONNECTION_ERRORS):
                await asyncio.wait_for(self._commit_all(consumer), LAST_COMMIT_S)
            await close(consumer, LAST_COMMIT_S)
            self._forget()

    def _make(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._router.group,
            client_id=self._router.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * 1024 * 1024,
            max_poll_records=MAX_POLL_RECORDS,
        )

    async def _turn(self, consumer: AIOKafkaConsumer) -> None:
        self._resume_due(consumer)
        polled = await consumer.getmany(timeout_ms=self._patience_ms())
        epoch = self._epoch
        if polled:
            # A rebalance waits for the transaction, and the transaction for a rebalance.
            async with self._applying:
                if epoch == self._epoch:
                    await _uninterrupted(self._apply(consumer, polled))
        self._commit_due(consumer)
        await self._prune_due()

    async def _apply(
        self, consumer: AIOKafkaConsumer, polled: dict[TopicPartition, list[ConsumerRecord]]
    ) -> None:
        records = [_raw(record) for each in polled.values() for record in each]
        try:
            outcome = await self._applier.apply(records, self._retries.troubled())
        except Unavailable as error:
            # Postgres itself is away: everything waits.
            log.warning("applying failed", action="apply_failed", group=self.name, reason=str(error))
            firsts = {(record.topic, record.partition): record for record in reversed(records)}
            for record in firsts.values():
                self._verdict(record, error)
            outcome = Outcome(failures={place: (record, error) for place, record in firsts.items()})
        self._take(consumer, outcome)

    def _take(self, consumer: AIOKafkaConsumer, outcome: Outcome) -> None:
        for (topic, partition), next_offset in outcome.next_offsets.items():
            place = TopicPartition(topic, partition)
            self._retries.passed((topic, partition), next_offset)
            self._uncommitted[place] = next_offset
            end = consumer.highwater(place)
            if end is not None:
                self._metrics.lag.labels(self._router.group, topic, str(partition)).set(end - next_offset)
        for (topic, partition), (record, error) in outcome.failures.items():
            log.warning(
                "record waits", action="record_waits", topic=topic, partition=partition,
                offset=record.offset, reason=repr(error),
            )  # fmt: skip
            consumer.seek(TopicPartition(topic, partition), record.offset)
            consumer.pause(TopicPartition(topic, partition))
        for (topic, what), number in outcome.counts.items():
            self._metrics.consumed.labels(self._router.group, topic, what).inc(number)

    def _verdict(self, record: RawRecord, error: Exception) -> bool:
        place = (record.topic, record.partition)
        return self._retries.is_dead(place, record.offset, error, self._clock.monotonic())

    def _resume_due(self, consumer: AIOKafkaConsumer) -> None:
        now = self._clock.monotonic()
        for (topic, partition), due in self._retries.waiting().items():
            if due <= now:
                self._retries.resumed((topic, partition))
                with suppress(IllegalStateError):
                    consumer.resume(TopicPartition(topic, partition))

    def _patience_ms(self) -> int:
        now = self._clock.monotonic()
        due = [COMMIT_EVERY_S, *(at - now for at in self._retries.waiting().values())]
        return max(1, int(min(due) * 1000))

    def _commit_due(self, consumer: AIOKafkaConsumer) -> None:
        now = self._clock.monotonic()
        is_busy = self._committing is not None and not self._committing.done()
        if self._uncommitted and now >= self._next_commit and not is_busy:
            self._next_commit = now + COMMIT_EVERY_S
            self._committing = asyncio.create_task(self._commit(consumer), name=f"{self.name}:commit")

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        assigned = consumer.assignment()
        offsets = {place: offset for place, offset in self._uncommitted.items() if place in assigned}
        try:
            if offsets:
                await consumer.commit(offsets)
        except CONNECTION_ERRORS as error:
            log.warning("offsets not committed", action="commit_failed", group=self.name, reason=repr(error))
            return
        for place, offset in offsets.items():
            if self._uncommitted.get(place) == offset:
                del self._uncommitted[place]

    async def _commit_all(self, consumer: AIOKafkaConsumer) -> None:
        if self._committing is not None and not self._committing.done():
            await asyncio.wait([self._committing])
        await self._commit(consumer)

    async def _prune_due(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_prune:
            return
        self._next_prune = now + PRUNE_EVERY_S
        try:
            async with self._database.transaction() as tx:
                await inbox.prune(tx, self._router.group, self._clock.now())
        except PhantomError as error:
            log.warning("inbox not pruned", action="prune_failed", group=self.name, reason=str(error))

    def _forget(self) -> None:
        self._uncommitted.clear()
        self._retries.forget()

    async def revoked(self, consumer: AIOKafkaConsumer) -> None:
        """Partitions are about to be taken away: finish, commit, forget."""
        async with self._applying:
            self.assigned.clear()
            self._epoch += 1
            with suppress(*CONNECTION_ERRORS):
                await asyncio.wait_for(self._commit_all(consumer), LAST_COMMIT_S)
            self._forget()

    def given(self, partitions: set[TopicPartition]) -> None:
        """Partitions were assigned: they start where the group's offsets are, and none is paused."""
        self._epoch += 1
        self._forget()
        if partitions:
            self.assigned.set()
        log.info("partitions assigned", action="partitions_assigned", group=self.name, count=len(partitions))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, consumers: Consumers, consumer: AIOKafkaConsumer) -> None:
        self._consumers = consumers
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._consumers.revoked(self._consumer)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._consumers.given(assigned)


async def _uninterrupted(applying: Coroutine[Any, Any, None]) -> None:
    """A stop waits for the transaction under way, so that its offsets can be committed."""
    task = asyncio.create_task(applying)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _raw(record: ConsumerRecord) -> RawRecord:
    return RawRecord(
        record.topic, record.partition, record.offset, record.timestamp, record.key, record.value,
        list(record.headers),
    )  # fmt: skip
