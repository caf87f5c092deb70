"""Giving up on a record: an inbox row in state `dead`, a row to replay from, and a record for the topic of the
dead, in the transaction that passes over it."""

from __future__ import annotations

from phantom_platform import cloudevents, inbox
from phantom_platform.cloudevents import Headers
from phantom_platform.errors import PhantomError
from phantom_platform.ids import uuid7
from phantom_platform.inbox import Identity
from phantom_platform.kafka.router import RawRecord, Router
from phantom_platform.outgoing import Outgoing, pack_headers
from phantom_platform.postgres import Transaction
from phantom_platform.telemetry import logs

log = logs.get(__name__)

MAX_REASON = 2_000
# Our topics take records up to 2 MiB; a larger one is kept in Postgres only.
MAX_COPIED_BYTES = 1_900_000


async def bury(tx: Transaction, router: Router, record: RawRecord, error: Exception) -> bool:
    """False where the record was buried, or applied, before."""
    identity = identity_of(record)
    if not await inbox.bury(tx, router.group, identity):
        return False
    reason = reason_of(error)
    await tx.execute(
        """INSERT INTO dead_letter (id, consumer, source, event_id, event_type, topic, partition, "offset",
                                    timestamp_ms, key, value, headers, reason)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)""",
        uuid7(),
        router.group,
        identity.source,
        identity.id,
        _text(cloudevents.as_texts(record.headers).get("ce_type", "")),
        record.topic,
        record.partition,
        record.offset,
        record.timestamp_ms,
        record.key,
        record.value,
        pack_headers(record.headers),
        reason,
    )
    topic = router.topics[record.topic].dead_letters(router.service).name
    tx.outbox.add_raw(Outgoing(topic, record.key, _copied(record), _headers(record, reason)))
    log.error(
        "record is dead",
        action="record_dead",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=reason,
    )
    return True


def identity_of(record: RawRecord) -> Identity:
    """`ce_source` and `ce_id` where both can be read, else the record's place."""
    texts = cloudevents.as_texts(record.headers)
    source, event_id = texts.get("ce_source", ""), texts.get("ce_id", "")
    for each in (source, event_id):
        if not each or len(each) > cloudevents.MAX_ATTRIBUTE or "\0" in each:
            return inbox.position(record.topic, record.partition, record.offset)
    return Identity(source, event_id)


def reason_of(error: Exception) -> str:
    """In words: our errors by their code, others by their class."""
    name = error.code if isinstance(error, PhantomError) else type(error).__name__
    return _text(f"{name}: {error}", MAX_REASON)


def _headers(record: RawRecord, reason: str) -> Headers:
    return [
        *record.headers,
        ("phantom_dead_topic", record.topic.encode()),
        ("phantom_dead_partition", b"%d" % record.partition),
        ("phantom_dead_offset", b"%d" % record.offset),
        ("phantom_dead_reason", reason.encode()),
    ]


def _copied(record: RawRecord) -> bytes | None:
    return record.value if record.value is None or len(record.value) <= MAX_COPIED_BYTES else b""


def _text(text: str, longest: int = cloudevents.MAX_ATTRIBUTE) -> str:
    """What Postgres takes as text: no NUL, no lone surrogate."""
    return text[:longest].replace("\0", "�").encode(errors="replace").decode()
