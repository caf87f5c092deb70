"""What a service listens to: which handler gets which event. Mistakes are refused here, at set-up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from phantom_contracts.events.base import Event
from phantom_contracts.topics import Topic
from phantom_platform import cloudevents
from phantom_platform.cloudevents import Envelope, Headers
from phantom_platform.errors import Invalid
from phantom_platform.postgres import Transaction

E = TypeVar("E", bound=Event)

SUPERSEDED: Final = "superseded"
"""Returned by a handler that replaces state, where it already holds a newer version than the event's."""


@dataclass(frozen=True, slots=True)
class Received(Generic[E]):
    """One event and where it came from."""

    event: E
    id: str
    source: str
    type: str
    time: datetime
    key: str
    topic: str
    partition: int
    offset: int
    aggregate_version: int | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One Kafka record, undecoded. `timestamp_ms` is Unix milliseconds, the producer's or the broker's."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


Handler = Callable[[Transaction, Received[E]], Awaitable[object]]
BatchHandler = Callable[[Transaction, Sequence[RawRecord]], Awaitable[object]]


class Router:
    """Handlers by topic and event type, for one consumer group (`phantom.<service>` unless given).

    The group's name is also the consumer's name in the inbox.
    """

    def __init__(self, service: str, *, group: str | None = None) -> None:
        self.service = service
        self.group = group or f"phantom.{service}"
        self.topics: dict[str, Topic] = {}
        self._handlers: dict[tuple[str, str], tuple[type[Event], Handler[Any]]] = {}
        self._batches: dict[str, BatchHandler] = {}

    def on(self, topic: Topic, event_type: type[E], handler: Handler[E]) -> None:
        """Call `handler` for each event of this type, once, in a transaction that also claims the event's id."""
        self._check(topic)
        if topic.name in self._batches:
            raise ValueError(f"{topic.name} is read in batches already")
        if event_type not in topic.events:
            raise ValueError(f"{topic.name} does not carry {event_type.__name__}")
        if (topic.name, event_type.type) in self._handlers:
            raise ValueError(f"{event_type.__name__} on {topic.name} has a handler already")
        self.topics[topic.name] = topic
        self._handlers[topic.name, event_type.type] = (event_type, handler)

    def on_batch(self, topic: Topic, handler: BatchHandler) -> None:
        """Call `handler` with the raw records of a poll; it keeps by itself, in the transaction, what it has
        seen: a record may come again."""
        self._check(topic)
        if topic.name in self.topics:
            raise ValueError(f"{topic.name} has a handler already")
        self.topics[topic.name] = topic
        self._batches[topic.name] = handler

    def batch_handler(self, topic: str) -> BatchHandler | None:
        """The batch handler of a topic, if it is read in batches."""
        return self._batches.get(topic)

    def decode(self, record: RawRecord) -> tuple[Received[Any], Handler[Any]] | None:
        """The event and its handler; None where no handler wants its type; `Invalid` where undecodable."""
        envelope = cloudevents.decode(record.headers)
        found = self._handlers.get((record.topic, envelope.type))
        if found is None:
            return None
        event_type, handler = found
        return _received(record, envelope, event_type), handler

    def _check(self, topic: Topic) -> None:
        if topic.kind == "compacted":
            raise ValueError(f"{topic.name} is compacted: read it with a Projection")


def _received(record: RawRecord, envelope: Envelope, event_type: type[E]) -> Received[E]:
    if record.value is None:
        raise Invalid("a record of a log has no value", code="undecodable")
    try:
        event = event_type.model_validate_json(record.value)
        key = (record.key or b"").decode()
    except (ValidationError, UnicodeDecodeError) as error:
        raise Invalid(f"{event_type.type}: {_first_line(error)}", code="undecodable") from error
    return Received(
        event=event,
        id=envelope.id,
        source=envelope.source,
        type=envelope.type,
        time=envelope.time,
        key=key,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        aggregate_version=envelope.aggregate_version,
        traceparent=envelope.traceparent,
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'value'}: {first['msg']}"
    return str(error)
