"""The inbox: which events a consumer has applied, or given up on, in the transaction of the effect.

Rows are kept 14 days, longer than any topic keeps its records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from phantom_platform.postgres import Transaction

KEPT = timedelta(days=14)
_PRUNE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes an event itself: `ce_source` and `ce_id`."""

    source: str
    id: str


def position(topic: str, partition: int, offset: int) -> Identity:
    """The identity of a record whose own cannot be read."""
    return Identity(f"kafka/{topic}/{partition}", str(offset))


async def claim(tx: Transaction, consumer: str, identities: Sequence[Identity]) -> list[bool]:
    """Claim each event; False where it was claimed before, by another transaction or earlier in the list."""
    rows = await tx.fetch(
        """INSERT INTO inbox (consumer, source, event_id)
           SELECT $1, source, id FROM unnest($2::text[], $3::text[]) AS given (source, id)
           ON CONFLICT DO NOTHING RETURNING source, event_id""",
        consumer,
        [each.source for each in identities],
        [each.id for each in identities],
    )
    fresh = {Identity(row["source"], row["event_id"]) for row in rows}
    claimed = []
    for each in identities:
        claimed.append(each in fresh)
        fresh.discard(each)
    return claimed


async def bury(tx: Transaction, consumer: str, identity: Identity) -> bool:
    """Mark an event as dead; False where it was claimed before."""
    status = await tx.execute(
        "INSERT INTO inbox (consumer, source, event_id, state) VALUES ($1, $2, $3, 'dead') ON CONFLICT DO NOTHING",
        consumer,
        identity.source,
        identity.id,
    )
    return status == "INSERT 0 1"


async def prune(tx: Transaction, consumer: str, now: datetime) -> int:
    """Forget what is older than 14 days, its dead letters too; at most 10,000 rows a call."""
    status = await tx.execute(
        """DELETE FROM inbox WHERE ctid = ANY(ARRAY(
               SELECT ctid FROM inbox WHERE consumer = $1 AND at < $2 LIMIT $3))""",
        consumer,
        now - KEPT,
        _PRUNE_ROWS,
    )
    return int(status.split()[-1])
