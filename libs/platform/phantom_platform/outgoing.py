"""One Kafka record to be, and its form as a row of the outbox."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson
import xxhash

from phantom_platform.cloudevents import Headers


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One Kafka record to be."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def lock(self) -> int:
        """The advisory lock that orders this record's key: a signed 64-bit hash of topic and key."""
        digest = xxhash.xxh3_64_intdigest(self.topic.encode() + b"\0" + (self.key or b""))
        return digest - (1 << 64) if digest >= 1 << 63 else digest


Columns = tuple[list[int], list[str], list[bytes | None], list[bytes | None], list[bytes]]


def rows(pending: Iterable[Outgoing]) -> Columns:
    """The arguments of `outbox_append`: sorted locks, then one list a column."""
    collected = list(pending)
    return (
        sorted({each.lock for each in collected}),
        [each.topic for each in collected],
        [each.key for each in collected],
        [each.value for each in collected],
        [pack_headers(each.headers) for each in collected],
    )


def pack_headers(headers: Headers) -> bytes:
    """Headers as JSON; latin-1 keeps every byte."""
    return orjson.dumps([(name, value.decode("latin-1")) for name, value in headers])


def unpack_headers(packed: bytes) -> Headers:
    """The inverse of `pack_headers`."""
    return [(name, text.encode("latin-1")) for name, text in orjson.loads(packed)]
