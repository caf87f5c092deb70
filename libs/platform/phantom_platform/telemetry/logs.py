"""Structured logs: one JSON object a line, a constant message, a stable `action`, variables as fields.

`configure` is called once by the process. Trace and span ids are added to each line; values whose field name
says that they are secret, and bearer tokens or JWTs anywhere in a text, are replaced before they are written.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from opentelemetry import trace

from phantom_platform.telemetry.repeats import Repeats

REDACTED = "[redacted]"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_SECRET_NAME = re.compile(
    r"(passw|secret|token|authorization|credential|api[-_]?key|private[-_]?key|cookie|dsn)", re.I
)
_SECRET_TEXT = re.compile(
    r"(?P<bearer>[Bb]earer\s+)[A-Za-z0-9._~+/=-]+"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|(?P<user>\w+://[^\s:/@]*:)[^\s@]+(?=@)"
)

Logger = structlog.stdlib.BoundLogger


def get(name: str) -> Logger:
    """A logger. `log.info("constant message", action="stable_key", **fields)`."""
    logger: Logger = structlog.get_logger(name)
    return logger


def configure(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send the process's logs, ours and every library's, as JSON lines to `stream` (standard error)."""
    if level.upper() not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)} (PHANTOM_LOG_LEVEL)")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _service(service),
        _trace_ids,
        structlog.processors.format_exc_info,
        redact,
    ]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.PositionalArgumentsFormatter(),
                structlog.stdlib.ExtraAdder(),
                *shared,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=Logger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    for chatty in ("aiokafka", "asyncio", "aiohttp.access", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def flush() -> None:
    """Hand over whatever is buffered, before a process ends abruptly."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace secrets in an event's fields, nested ones included. Changes and returns the event."""
    for name, value in event.items():
        event[name] = REDACTED if _is_secret(name, value) else _clean(value)
    return event


def _is_secret(name: str, value: Any) -> bool:
    return isinstance(value, str | bytes) and bool(value) and _SECRET_NAME.search(name) is not None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda m: f"{m['bearer'] or m['user'] or ''}{REDACTED}", value)
    if isinstance(value, Mapping):
        return {k: REDACTED if _is_secret(str(k), v) else _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def bind(**fields: str) -> None:
    """Have every line say this. For the whole process when it is called before the event loop runs."""
    structlog.contextvars.bind_contextvars(**fields)


def _service(name: str) -> Any:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", name)
        return event

    return add


def _trace_ids(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = format(span.trace_id, "032x")
        event["span_id"] = format(span.span_id, "016x")
    return event
