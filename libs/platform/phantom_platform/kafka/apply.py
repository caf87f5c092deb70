"""Applying records: a poll in one transaction; where that fails, one by one with savepoints.

Nothing here knows Kafka's consumer: it is given records and says how far each partition came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from phantom_platform import inbox
from phantom_platform.inbox import Identity
from phantom_platform.kafka.burial import bury
from phantom_platform.kafka.router import RawRecord, Received, Router
from phantom_platform.postgres import Transaction
from phantom_platform.postgres.failures import unavailable
from phantom_platform.telemetry import logs, tracing

log = logs.get(__name__)

Partition = tuple[str, int]


class Transactions(Protocol):
    """Where transactions come from: a `Database`."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...


@dataclass
class Outcome:
    """How a poll went: the next offset of each partition, and the failure that holds one up, if any."""

    next_offsets: dict[Partition, int] = field(default_factory=dict)
    failures: dict[Partition, tuple[RawRecord, Exception]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def count(self, topic: str, what: str, number: int = 1) -> None:
        self.counts[topic, what] = self.counts.get((topic, what), 0) + number

    def passed(self, record: RawRecord) -> None:
        self.next_offsets[record.topic, record.partition] = record.offset + 1


# Decides, for a record whose handler raised: True = it is dead, False = its partition waits and tries again.
Verdict = Callable[[RawRecord, Exception], bool]


class Applier:
    """Applies records of one router's topics through one service's database."""

    def __init__(self, router: Router, database: Transactions, verdict: Verdict) -> None:
        self._router = router
        self._database = database
        self._verdict = verdict

    async def apply(self, records: Sequence[RawRecord]) -> Outcome:
        """All in one transaction, else one by one. Raises `Unavailable` where Postgres itself is away."""
        try:
            return await self._together(records)
        except Exception as error:
            # Whose fault it was, the second round finds out.
            log.info(
                "applying one by one", action="apply_one_by_one", records=len(records), reason=repr(error)
            )
        return await self._one_by_one(records)

    async def _together(self, records: Sequence[RawRecord]) -> Outcome:
        outcome = Outcome()
        async with self._database.transaction() as tx:
            for topic, batch in _batches(self._router, records).items():
                await self._call_batch(tx, topic, batch)
                outcome.count(topic, "applied", len(batch))
            await self._call_events(tx, records, outcome)
        for record in records:
            outcome.passed(record)
        return outcome

    async def _call_events(self, tx: Transaction, records: Sequence[RawRecord], outcome: Outcome) -> None:
        decoded = []
        for record in records:
            if self._router.batch_handler(record.topic) is None:
                found = self._router.decode(record)
                if found is None:
                    outcome.count(record.topic, "skipped")
                else:
                    decoded.append(found)
        if not decoded:
            return
        identities = [Identity(received.source, received.id) for received, _ in decoded]
        claimed = await inbox.claim(tx, self._router.group, identities)
        for (received, handler), is_new in zip(decoded, claimed, strict=True):
            if is_new:
                await call(tx, received, handler)
            outcome.count(received.topic, "applied" if is_new else "duplicate")

    async def _one_by_one(self, records: Sequence[RawRecord]) -> Outcome:
        outcome = Outcome()
        async with self._database.transaction() as tx:
            for record in records:
                partition = (record.topic, record.partition)
                if partition not in outcome.failures:
                    await self._one(tx, record, outcome)
        return outcome

    async def _one(self, tx: Transaction, record: RawRecord, outcome: Outcome) -> None:
        announced = len(tx.outbox.pending)
        try:
            async with tx.connection.transaction():
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
