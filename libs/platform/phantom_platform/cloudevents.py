"""CloudEvents 1.0 in Kafka's binary mode: attributes are headers, the value is the data.

Also carried: `traceparent` (W3C), `phantom_version` on compacted topics, `ce_aggregateversion` on logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from opentelemetry import trace

from phantom_platform.errors import Invalid

Headers = list[tuple[str, bytes]]

VERSION = "phantom_version"
AGGREGATE_VERSION = "ce_aggregateversion"
TRACEPARENT = "traceparent"
MAX_ATTRIBUTE = 512


@dataclass(frozen=True, slots=True)
class Envelope:
    """The attributes of one event; what is absent is empty or None."""

    type: str
    id: str
    source: str
    time: datetime
    content_type: str = "application/json"
    aggregate_version: int | None = None
    traceparent: str | None = None


def encode(envelope: Envelope, *, compacted_version: int | None = None) -> Headers:
    """The Kafka headers of an event."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", envelope.id.encode()),
        ("ce_source", envelope.source.encode()),
        ("ce_type", envelope.type.encode()),
        ("ce_time", envelope.time.astimezone(UTC).isoformat().replace("+00:00", "Z").encode()),
        ("content-type", envelope.content_type.encode()),
    ]
    if envelope.traceparent is not None:
        headers.append((TRACEPARENT, envelope.traceparent.encode()))
    if envelope.aggregate_version is not None:
        headers.append((AGGREGATE_VERSION, b"%d" % envelope.aggregate_version))
    if compacted_version is not None:
        headers.append((VERSION, b"%d" % compacted_version))
    return headers


def decode(headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Read the attributes; `Invalid` (`undecodable`) names the one that is missing or malformed."""
    texts = as_texts(headers)
    for name in ("ce_type", "ce_id", "ce_source", "ce_time"):
        if not texts.get(name):
            raise _undecodable(f"header {name} is missing or is not UTF-8")
        if len(texts[name]) > MAX_ATTRIBUTE or "\0" in texts[name]:
            raise _undecodable(f"header {name} is longer than {MAX_ATTRIBUTE} characters or contains NUL")
    if (spec := texts.get("ce_specversion")) != "1.0":
        raise _undecodable(f"header ce_specversion is {spec!r}; 1.0 is read")
    return Envelope(
        type=texts["ce_type"],
        id=texts["ce_id"],
        source=texts["ce_source"],
        time=_time(texts["ce_time"]),
        content_type=texts.get("content-type", "application/json"),
        aggregate_version=_version(texts, AGGREGATE_VERSION),
        traceparent=texts.get(TRACEPARENT),
    )


def as_texts(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Headers as text, by lower-case name; those that are not UTF-8 are left out."""
    texts = {}
    for name, value in headers:
        try:
            texts[name.lower()] = value.decode()
        except (UnicodeDecodeError, AttributeError):
            continue
    return texts


def version_in(headers: Iterable[tuple[str, bytes]], name: str = VERSION) -> int | None:
    """The version that a header carries, None where it is absent; `Invalid` where it is no number >= 0."""
    return _version(as_texts(headers), name)


def _version(texts: Mapping[str, str], name: str) -> int | None:
    text = texts.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _undecodable(f"header {name} is {text[:40]!r}, no version")
    return int(text)


def current_traceparent() -> str | None:
    """The W3C header of the current span, None outside any."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _undecodable(f"header ce_time is {text[:40]!r}, no RFC 3339 time") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _undecodable(message: str) -> Invalid:
    return Invalid(message, code="undecodable")
