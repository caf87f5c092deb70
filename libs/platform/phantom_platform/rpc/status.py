"""Our errors as gRPC statuses, and back: one table, used by servers and clients alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from phantom_platform import errors
from phantom_platform.errors import Exhausted, Invalid, PhantomError, Unavailable, Violation

DOMAIN = "phantom"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_BYTES = 800
MAX_FIELD_BYTES = 256
MAX_STATUS_BYTES = 4000
"""A peer refuses more than 8 KiB of metadata, in which the message stands twice (once percent-encoded, up to
three times as long) and the status in base64: an error must never be lost for being long."""

_CODES: dict[type[PhantomError], grpc.StatusCode] = {
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}
_CLASSES = {code: kind for kind, code in _CODES.items()}


def code_of(error: PhantomError) -> grpc.StatusCode:
    """The status code of an error's class, or of its nearest ancestor in the table; INTERNAL for none."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return grpc.StatusCode.INTERNAL


def retry_after_s(error: PhantomError) -> float | None:
    """When its caller should try again: an `Unavailable` always says so, an `Exhausted` by the field of this name."""
    if isinstance(error, Unavailable):
        return error.retry_after_s
    delay = error.fields.get("retry_after_s") if isinstance(error, Exhausted) else None
    return delay if isinstance(delay, int | float) else None


def to_status(error: PhantomError) -> status_pb2.Status:
    """The rich status: ErrorInfo always; RetryInfo where a delay is known, BadRequest for `Invalid`.

    What does not fit is left out from the end: the last violations first, then the last fields.
    """
    status = status_pb2.Status(code=code_of(error).value[0], message=_cut(error.message, MAX_MESSAGE_BYTES))
    room = MAX_STATUS_BYTES - len(status.message.encode())
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN)
    for name, value in error.fields.items():
        text = _cut(_text(value), MAX_FIELD_BYTES)
        if info.ByteSize() + len(name) + len(text.encode()) < room // 2:
            info.metadata[name] = text
    status.details.add().Pack(info)
    delay = retry_after_s(error)
    if delay is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=_duration(delay)))
    if isinstance(error, Invalid) and error.violations:
        status.details.add().Pack(_bad_request(error.violations, MAX_STATUS_BYTES - status.ByteSize() - 100))
    return status


def _bad_request(violations: Sequence[Violation], room: int) -> error_details_pb2.BadRequest:
    bad = error_details_pb2.BadRequest()
    for violation in violations:
        field, description = (
            _cut(violation.field, MAX_FIELD_BYTES),
            _cut(violation.description, MAX_FIELD_BYTES),
        )
        if bad.ByteSize() + len(field.encode()) + len(description.encode()) + 12 > room:
            break
        bad.field_violations.add(field=field, description=description)
    return bad


def from_status(code: grpc.StatusCode, message: str, details: bytes | None) -> PhantomError:
    """The error that a server meant: same class, code and fields where it was one of ours."""
    kind = _CLASSES.get(code, PhantomError)
    info, bad, retry = _unpack(details)
    fields: dict[str, object] = dict(info.metadata) if info is not None else {}
    reason = info.reason if info is not None else None
    if code is grpc.StatusCode.CANCELLED and reason is None:
        reason = "cancelled"
    if kind is Invalid:
        violations = [Violation(each.field, each.description) for each in bad.field_violations] if bad else []
        return _with_fields(Invalid(message, code=reason, violations=violations), fields)
    if kind is Unavailable:
        delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if retry is not None else 1.0
        return _with_fields(Unavailable(message, code=reason, retry_after_s=delay), fields)
    return _with_fields(kind(message, code=reason), fields)


def _with_fields(error: PhantomError, fields: Mapping[str, object]) -> PhantomError:
    # Not as keywords: a field may be called like a parameter.
    error.fields.update(fields)
    return error


def _unpack(
    details: bytes | None,
) -> tuple[
    error_details_pb2.ErrorInfo | None,
    error_details_pb2.BadRequest | None,
    error_details_pb2.RetryInfo | None,
]:
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    found: set[int] = set()
    try:
        status = status_pb2.Status.FromString(details or b"")
        for packed in status.details:
            for part in (info, bad, retry):
                if packed.Unpack(part):
                    found.add(id(part))
    except DecodeError:
        return None, None, None
    return (
        info if id(info) in found and info.domain == DOMAIN else None,
        bad if id(bad) in found else None,
        retry if id(retry) in found else None,
    )


def _duration(seconds: float) -> Duration:
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(item) for item in value)
    return str(value)


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= limit else f"{raw[: limit - 3].decode('utf-8', 'ignore')}…"
