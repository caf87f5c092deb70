"""Applying records: a poll in one transaction; where that fails, one by one with savepoints.

An attempt at a record is one call of its handler: a bug that shows in the poll's transaction counts, and a partition
that waits for another attempt goes one by one at once.

Nothing here knows Kafka's consumer: it is given records and says how far each partition came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from phantom_platform import inbox
from phantom_platform.errors import PhantomError
from phantom_platform.inbox import Identity
from phantom_platform.kafka.burial import bury
from phantom_platform.kafka.router import RawRecord, Received, Router
from phantom_platform.postgres import Transaction
from phantom_platform.postgres.failures import unavailable
from phantom_platform.telemetry import logs, tracing

log = logs.get(__name__)

Partition = tuple[str, int]

# "The transaction is aborted": an earlier statement failed, and its handler went on.
_ABORTED = "25P02"


class Transactions(Protocol):
    """Where transactions come from: a `Database`."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...


@dataclass
class Outcome:
    """How a poll went: the next offset of each partition, and the failure that holds one up, if any."""

    next_offsets: dict[Partition, int] = field(default_factory=dict)
    failures: dict[Partition, tuple[RawRecord, Exception]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    # The one record that a handler has right now.
    at_work: RawRecord | None = None

    def join(self, other: Outcome) -> None:
        """Take in how the poll's other partitions went."""
        self.next_offsets |= other.next_offsets
        self.failures |= other.failures
        for (topic, what), number in other.counts.items():
            self.count(topic, what, number)

    def count(self, topic: str, what: str, number: int = 1) -> None:
        self.counts[topic, what] = self.counts.get((topic, what), 0) + number

    def passed(self, record: RawRecord) -> None:
        self.next_offsets[record.topic, record.partition] = record.offset + 1


# A record and what its handler raised.
Failed = tuple[RawRecord, Exception]

# Decides, for a record whose handler raised: True = it is dead, False = its partition waits and tries again.
Verdict = Callable[[RawRecord, Exception], bool]


class Applier:
    """Applies records of one router's topics through one service's database."""

    def __init__(self, router: Router, database: Transactions, verdict: Verdict) -> None:
        self._router = router
        self._database = database
        self._verdict = verdict

    async def apply(self, records: Sequence[RawRecord], waiting: Collection[Partition] = ()) -> Outcome:
        """All in one transaction, else one by one; those of partitions `waiting` for another attempt one by one.

        Raises `Unavailable` where Postgres itself is away.
        """
        if not waiting:
            return await self._apply_calm(records)
        calm: list[RawRecord] = []
        others: list[RawRecord] = []
        for record in records:
            (others if (record.topic, record.partition) in waiting else calm).append(record)
        outcome = await self._apply_calm(calm) if calm else Outcome()
        if others:
            outcome.join(await self._one_by_one(others))
        return outcome

    async def _apply_calm(self, records: Sequence[RawRecord]) -> Outcome:
        outcome = Outcome()
        try:
            await self._together(records, outcome)
        except Exception as error:
            # Whose fault it was, the second round finds out.
            log.info(
                "applying one by one", action="apply_one_by_one", records=len(records), reason=repr(error)
            )
            failed = (outcome.at_work, error) if outcome.at_work and _is_an_attempt(error) else None
            return await self._one_by_one(records, failed)
        return outcome

    async def _together(self, records: Sequence[RawRecord], outcome: Outcome) -> None:
        async with self._database.transaction() as tx:
            for topic, batch in _batches(self._router, records).items():
                outcome.at_work = batch[0] if len(batch) == 1 else None
                await self._call_batch(tx, topic, batch)
                outcome.at_work = None
                outcome.count(topic, "applied", len(batch))
            await self._call_events(tx, records, outcome)
        for record in records:
            outcome.passed(record)

    async def _call_events(self, tx: Transaction, records: Sequence[RawRecord], outcome: Outcome) -> None:
        decoded = []
        for record in records:
            if self._router.batch_handler(record.topic) is None:
                found = self._router.decode(record)
                if found is None:
                    outcome.count(record.topic, "skipped")
                else:
                    decoded.append((record, *found))
        if not decoded:
            return
        identities = [Identity(received.source, received.id) for _, received, _ in decoded]
        claimed = await inbox.claim(tx, self._router.group, identities)
        for (record, received, handler), is_new in zip(decoded, claimed, strict=True):
            if is_new:
                outcome.at_work = record
                await call(tx, received, handler)
                outcome.at_work = None
            outcome.count(received.topic, "applied" if is_new else "duplicate")

    async def _one_by_one(self, records: Sequence[RawRecord], failed: Failed | None = None) -> Outcome:
        """`failed` has had its attempt already."""
        outcome = Outcome()
        async with self._database.transaction() as tx:
            for record in records:
                partition = (record.topic, record.partition)
                if partition not in outcome.failures:
                    error = failed[1] if failed and failed[0] is record else None
                    await self._one(tx, record, outcome, error)
        return outcome

    async def _one(
        self, tx: Transaction, record: RawRecord, outcome: Outcome, known: Exception | None
    ) -> None:
        announced = len(tx.outbox.pending)
        try:
            async with tx.connection.transaction():
                if known is not None:
                    raise known
                await self._call_one(tx, record, outcome)
        except Exception as error:
            if tx.connection.is_closed():
                raise
            # What the handler announced before it failed is undone with its statements.
            del tx.outbox.pending[announced:]
            # A collision or a lost connection that a handler's own use of asyncpg raised is temporary.
            meant = unavailable(error) or error
            if not self._verdict(record, meant):
                outcome.failures[record.topic, record.partition] = (record, meant)
                outcome.count(record.topic, "retried")
                return
            if await bury(tx, self._router, record, error):
                outcome.count(record.topic, "dead")
        outcome.passed(record)

    async def _call_one(self, tx: Transaction, record: RawRecord, outcome: Outcome) -> None:
        if self._router.batch_handler(record.topic) is not None:
            await self._call_batch(tx, record.topic, [record])
            outcome.count(record.topic, "applied")
        else:
            await self._call_events(tx, [record], outcome)

    async def _call_batch(self, tx: Transaction, topic: str, batch: Sequence[RawRecord]) -> None:
        handler = self._router.batch_handler(topic)
        if handler is None:
            raise LookupError(f"{topic} has no batch handler")
        traces = _traces(batch)
        with tracing.span(
            f"consume {topic}",
            parent=traces[0] if traces else None,
            kind=SpanKind.CONSUMER,
            links=traces[1:],
            records=len(batch),
        ):
            await handler(tx, batch)


def _is_an_attempt(error: Exception) -> bool:
    """A bug of the handler that had the record. What is permanent, temporary or another record's fault is looked at
    again at once, alone."""
    is_aborted = getattr(error, "sqlstate", None) == _ABORTED
    return not isinstance(error, PhantomError) and not is_aborted and unavailable(error) is None


async def call(
    tx: Transaction,
    received: Received[Any],
    handler: Callable[[Transaction, Received[Any]], Awaitable[object]],
) -> object:
    """Run a handler inside a span that continues the trace of whoever announced the event."""
    parent = tracing.extract(received.traceparent)
    with tracing.span(
        f"consume {received.type}", parent=parent, kind=SpanKind.CONSUMER, event_id=received.id
    ):
        return await handler(tx, received)


def _traces(batch: Sequence[RawRecord]) -> list[Context]:
    """Of whoever wrote these records: one span can continue one trace, and name the others as links."""
    texts = {value for record in batch for name, value in record.headers if name == tracing.TRACEPARENT}
    return [found for text in sorted(texts) if (found := tracing.extract(text)) is not None]


def _batches(router: Router, records: Sequence[RawRecord]) -> dict[str, list[RawRecord]]:
    batches: dict[str, list[RawRecord]] = {}
    for record in records:
        if router.batch_handler(record.topic) is not None:
            batches.setdefault(record.topic, []).append(record)
    return batches
