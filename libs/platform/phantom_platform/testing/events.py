"""Events for tests, as another service would write them."""

from __future__ import annotations

from datetime import UTC, datetime

from phantom_contracts.events.base import Event
from phantom_contracts.topics import Topic
from phantom_platform import cloudevents
from phantom_platform.cloudevents import Envelope
from phantom_platform.ids import new_id
from phantom_platform.kafka.producer import Producer
from phantom_platform.outgoing import Outgoing


def record(
    topic: Topic, key: str, event: Event | None, *, version: int | None = None, event_id: str | None = None
) -> Outgoing:
    """`event` as the topic's writer publishes it; None is a tombstone. `version`: the key's or the aggregate's."""
    is_compacted = topic.kind == "compacted"
    envelope = Envelope(
        type=event.type if event is not None else topic.events[0].type,
        id=event_id or new_id(),
        source=f"phantom/{topic.writer}",
        time=datetime.now(UTC),
        aggregate_version=None if is_compacted else version,
        traceparent=cloudevents.current_traceparent(),
    )
    headers = cloudevents.encode(envelope, compacted_version=version if is_compacted else None)
    value = None if event is None else event.model_dump_json().encode()
    return Outgoing(topic.name, key.encode(), value, headers)


async def publish(producer: Producer, outgoing: Outgoing) -> None:
    """Returns when Kafka has acknowledged."""
    await producer.send(outgoing.topic, outgoing.key, outgoing.value, outgoing.headers)
