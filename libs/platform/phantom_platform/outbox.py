"""Events leave by the outbox: rows that commit or roll back with the state they announce.

`Outbox.add` only collects. As the last statements before COMMIT the unit of work takes an advisory lock on
each (topic, key), in sorted order, and then draws ids in the order of the adds; so transactions on one key
serialise, and on different keys they may commit out of id order. `OutboxRelay` publishes them.
"""

from __future__ import annotations

from datetime import datetime

from phantom_contracts.events.base import Event, Record
from phantom_contracts.topics import Topic
from phantom_platform import cloudevents
from phantom_platform.cloudevents import Envelope
from phantom_platform.errors import Invalid, Violation
from phantom_platform.ids import new_id
from phantom_platform.outgoing import Outgoing
from phantom_platform.relay import OutboxRelay

__all__ = ["MAX_EVENT_BYTES", "Outbox", "OutboxRelay"]

MAX_EVENT_BYTES = 512 * 1024
_ANYONE = ("all", "upstream")


class Outbox:
    """What one transaction announces. `source` is `phantom/<service>`."""

    def __init__(self, source: str, now: datetime) -> None:
        self._source = source
        self._now = now
        self.pending: list[Outgoing] = []

    def add(self, topic: Topic, key: str, event: Event, *, version: int | None = None) -> None:
        """Announce `event`. `version` is the key's (compacted) or the aggregate's (log).

        A compacted record needs one, and carries it itself where it has the field. Refused (`Invalid`): over
        512 KiB, an event that the topic does not carry, a topic that another service writes.
        """
        self._check_topic(topic)
        if type(event) not in topic.events:
            names = ", ".join(each.__name__ for each in topic.events) or "no events"
            raise _invalid(topic, f"carries {names}, not {type(event).__name__}", "event_not_in_topic")
        if isinstance(event, Record):
            version = _one_version(topic, version, event.version)
        value = event.model_dump_json().encode()
        self._append(topic, key, value, event.type, version)

    def add_tombstone(self, topic: Topic, key: str, *, version: int) -> None:
        """Announce that `key` of a compacted topic is gone, as its next version."""
        self._check_topic(topic)
        if topic.kind != "compacted":
            raise _invalid(topic, "is a log: it has no tombstones", "tombstone_in_log")
        self._append(topic, key, None, topic.events[0].type, version)

    def add_raw(self, outgoing: Outgoing) -> None:
        """Announce a record as it is: dead letters carry foreign bytes."""
        self.pending.append(outgoing)

    def _append(self, topic: Topic, key: str, value: bytes | None, ce_type: str, version: int | None) -> None:
        if value is not None and len(value) > MAX_EVENT_BYTES:
            raise _invalid(
                topic, f"event of {len(value)} bytes; at most {MAX_EVENT_BYTES}", "event_too_large"
            )
        if not key:
            raise _invalid(topic, "an event needs a key", "key_missing")
        is_compacted = topic.kind == "compacted"
        if is_compacted and (version is None or version < 0):
            raise _invalid(topic, "is compacted: give the key's version", "version_missing")
        envelope = Envelope(
            type=ce_type,
            id=new_id(),
            source=self._source,
            time=self._now,
            content_type=topic.content_type,
            aggregate_version=None if is_compacted else version,
            traceparent=cloudevents.current_traceparent(),
        )
        headers = cloudevents.encode(envelope, compacted_version=version if is_compacted else None)
        self.pending.append(Outgoing(topic.name, key.encode(), value, headers))

    def _check_topic(self, topic: Topic) -> None:
        if topic.writer not in (self._source.removeprefix("phantom/"), *_ANYONE):
            raise _invalid(topic, f"is written by {topic.writer}, not by {self._source}", "not_the_writer")


def _one_version(topic: Topic, given: int | None, carried: int) -> int:
    if given is not None and given != carried:
        raise _invalid(topic, f"version {given} was given and the record says {carried}", "version_mismatch")
    return carried


def _invalid(topic: Topic, description: str, code: str) -> Invalid:
    return Invalid(code=code, violations=[Violation(topic.name, description)])
