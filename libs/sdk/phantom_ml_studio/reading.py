"""From messages to plain values: each field of a dataclass is read from the message's field of that name."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp


def fields_of(cls: type[Any], message: Message, **given: Any) -> dict[str, Any]:
    """Keyword arguments for `cls`: absent fields as None, repeated ones as tuples, moments in UTC; `given` as it is."""
    names = [each.name for each in dataclasses.fields(cls)]
    return {name: given[name] if name in given else _field(message, name) for name in names}


def optional(message: Message, name: str) -> Any:
    """A field's value, None where it is absent."""
    return getattr(message, name) if message.HasField(name) else None


def _field(message: Message, name: str) -> Any:
    descriptor, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if descriptor.is_repeated:
        return tuple(value)
    if descriptor.has_presence and not message.HasField(name):
        return {} if isinstance(value, Struct) else None
    if isinstance(value, Timestamp):
        return moment(value)
    return MessageToDict(value) if isinstance(value, Struct) else value


def moment(stamp: Timestamp) -> datetime:
    """In UTC."""
    return stamp.ToDatetime(tzinfo=UTC)
