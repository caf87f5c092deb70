"""Which calls belong together: a W3C `traceparent` that the SDK sends, so that one trace leads through the platform.

A program that traces with OpenTelemetry needs nothing: its current span is the parent. Without it:

>>> with trace() as trace_id:
...     registry.register_model(...)
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TRACEPARENT = "traceparent"
_current: ContextVar[str | None] = ContextVar("phantom_traceparent", default=None)


@contextmanager
def trace() -> Iterator[str]:
    """Calls made inside the block share one sampled trace, whose id (32 hex digits) is given."""
    fresh = new_traceparent()
    token = _current.set(fresh)
    try:
        yield trace_id_of(fresh)
    finally:
        _current.reset(token)


def traceparent() -> str | None:
    """That of the enclosing `trace()`, else of OpenTelemetry's current span, else None."""
    return _current.get() or _of_opentelemetry()


def new_traceparent() -> str:
    """A sampled trace of its own."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def trace_id_of(parent: str) -> str:
    """The trace's id in a `traceparent`."""
    return parent.split("-")[1]


def _of_opentelemetry() -> str | None:
    # Where the program has not loaded it there is no current span, and we do not load it for that.
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return None
    span = opentelemetry.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
