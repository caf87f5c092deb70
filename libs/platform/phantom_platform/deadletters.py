"""Dead letters: records that a service could not apply, kept with their bytes until somebody replays them.

A replay runs the handler and moves the inbox row from `dead` to `applied`, in one transaction; nothing is
published again. How a record comes to be dead is in `kafka/burial.py`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from phantom_platform import inbox
from phantom_platform.clock import Clock
from phantom_platform.cloudevents import Headers
from phantom_platform.errors import Invalid, NotFound, Refused, Violation
from phantom_platform.kafka.apply import call
from phantom_platform.kafka.router import SUPERSEDED, RawRecord, Router
from phantom_platform.outgoing import unpack_headers
from phantom_platform.postgres import Database, Transaction

APPLIED = "applied"
MAX_PAGE = 500
_COLUMNS = """d.id, d.source, d.event_id, d.event_type, d.topic, d.partition, d."offset", d.timestamp_ms, d.key,
              d.value, d.headers, d.reason, d.died_at, i.state"""
_JOINED = "dead_letter d JOIN inbox i USING (consumer, source, event_id)"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record and why it died. `state` is `dead` or `applied`."""

    id: str
    source: str
    event_id: str
    event_type: str
    record: RawRecord
    reason: str
    died_at: datetime
    state: str

    @property
    def headers(self) -> Headers:
        return self.record.headers


class DeadLetters:
    """What one service's consumers gave up on. Give it the router that they have."""

    def __init__(self, router: Router, database: Database, clock: Clock) -> None:
        self.service = router.service
        self._router = router
        self.database = database
        self._clock = clock

    async def list(self, *, state: str = "", limit: int = 100, before: str = "") -> list[DeadLetter]:
        """Newest first, those older than the id `before` where given; only those in `state` where given."""
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid(violations=[Violation("limit", f"1 to {MAX_PAGE}, not {limit}")])
        if state not in ("", "dead", APPLIED):
            raise Invalid(violations=[Violation("state", f"`dead` or `applied`, not {state!r}")])
        rows = await self.database.fetch(
            f"""SELECT {_COLUMNS} FROM {_JOINED}
                WHERE d.consumer = $1 AND ($2 = '' OR i.state = $2) AND ($3::uuid IS NULL OR d.id < $3)
                ORDER BY d.id DESC LIMIT $4""",  # noqa: S608 - our own literals
            self._router.group,
            state,
            _uuid(before, "before") if before else None,
            limit,
        )
        return [_dead_letter(row) for row in rows]

    async def count_dead(self) -> int:
        """How many wait for a replay, at most 1,000."""
        count: int = await self.database.fetchval(
            f"SELECT count(*) FROM (SELECT FROM {_JOINED} WHERE d.consumer = $1 AND i.state = 'dead' LIMIT 1000) d",  # noqa: S608
            self._router.group,
        )
        return count

    async def show(self, dead_letter_id: str) -> DeadLetter:
        """One of them; `NotFound` (`dead_letter_not_found`)."""
        row = await self.database.fetchrow(
            f"SELECT {_COLUMNS} FROM {_JOINED} WHERE d.consumer = $1 AND d.id = $2",  # noqa: S608
            self._router.group,
            _uuid(dead_letter_id, "id"),
        )
        return _dead_letter(_found(row, dead_letter_id))

    async def replay(self, dead_letter_id: str) -> str:
        """Runs the handler; returns `applied`, or `superseded` where the handler held something newer.

        `Refused`: `already_replayed`; `dead_letter_expired` after 14 days. Whatever the handler raises is
        raised, and the record stays dead.
        """
        async with self.database.transaction() as tx:
            row = await tx.fetchrow(
                f"""SELECT {_COLUMNS} FROM {_JOINED}
                    WHERE d.consumer = $1 AND d.id = $2 FOR UPDATE OF i""",  # noqa: S608
                self._router.group,
                _uuid(dead_letter_id, "id"),
            )
            letter = _dead_letter(_found(row, dead_letter_id))
            self._refuse_repeats(letter)
            result = await self._run(tx, letter.record)
            await tx.execute(
                """UPDATE inbox SET state = 'applied', at = clock_timestamp()
                   WHERE consumer = $1 AND source = $2 AND event_id = $3""",
                self._router.group,
                letter.source,
                letter.event_id,
            )
            tx.mark_mutation()
        return SUPERSEDED if result == SUPERSEDED else APPLIED

    def _refuse_repeats(self, letter: DeadLetter) -> None:
        if letter.state == APPLIED:
            raise Refused(
                f"dead letter {letter.id} was replayed already", code="already_replayed", id=letter.id
            )
        if letter.died_at < self._clock.now() - inbox.KEPT:
            raise Refused(
                f"dead letter {letter.id} is older than {inbox.KEPT.days} days: whether it was applied since is "
                "no longer known",
                code="dead_letter_expired",
                id=letter.id,
            )

    async def _run(self, tx: Transaction, record: RawRecord) -> object:
        if (batch_handler := self._router.batch_handler(record.topic)) is not None:
            return await batch_handler(tx, [record])
        found = self._router.decode(record)
        if found is None:
            raise Refused(
                f"no handler of {self.service} takes this event any more",
                code="handler_missing",
                topic=record.topic,
            )
        received, handler = found
        return await call(tx, received, handler)


def _found(row: Any, dead_letter_id: str) -> Any:
    if row is None:
        raise NotFound(f"no dead letter {dead_letter_id}", code="dead_letter_not_found", id=dead_letter_id)
    return row


def _uuid(text: str, field: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Invalid(violations=[Violation(field, f"{text[:60]!r} is no id of a dead letter")]) from None


def _dead_letter(row: Any) -> DeadLetter:
    record = RawRecord(
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        timestamp_ms=row["timestamp_ms"],
        key=row["key"],
        value=row["value"],
        headers=unpack_headers(row["headers"]),
    )
    return DeadLetter(
        id=str(row["id"]),
        source=row["source"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        record=record,
        reason=row["reason"],
        died_at=row["died_at"],
        state=row["state"],
    )
