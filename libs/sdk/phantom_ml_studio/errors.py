"""What a call to the platform can end with, as exceptions. `code` is stable; `fields` hold the ids concerned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

_STATUS_KEY = "grpc-status-details-bin"


class PhantomError(Exception):
    """The platform could not do what was asked."""

    def __init__(
        self, message: str, *, code: str = "unknown", fields: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.fields = dict(fields or {})
        # Of the failed call, for the platform's logs and traces; empty where none was made.
        self.trace_id = ""
        # (field, what is wrong with it) for each part of a bad request.
        self.violations: tuple[tuple[str, str], ...] = ()


class Invalid(PhantomError):
    """The request is wrong; `violations` say where."""


class NotFound(PhantomError):
    """What was named does not exist."""


class AlreadyExists(PhantomError):
    """Something else has that name."""


class Conflict(PhantomError):
    """The thing changed meanwhile: read it again."""


class Refused(PhantomError):
    """Not possible in the present state."""


class Unauthenticated(PhantomError):
    """No login, or one that has ended."""


class Forbidden(PhantomError):
    """The login lacks a permission, which the message names."""


class Exhausted(PhantomError):
    """A limit was reached."""


class Unavailable(PhantomError):
    """Nobody answers now; trying again later may help."""


class TimedOut(PhantomError):
    """The deadline passed."""


class Failed(PhantomError):
    """What was begun came to nothing."""


class Unsupported(PhantomError):
    """Not built."""


_CLASSES: dict[int, type[PhantomError]] = {
    code_pb2.INVALID_ARGUMENT: Invalid,
    code_pb2.NOT_FOUND: NotFound,
    code_pb2.ALREADY_EXISTS: AlreadyExists,
    code_pb2.ABORTED: Conflict,
    code_pb2.FAILED_PRECONDITION: Refused,
    code_pb2.UNAUTHENTICATED: Unauthenticated,
    code_pb2.PERMISSION_DENIED: Forbidden,
    code_pb2.RESOURCE_EXHAUSTED: Exhausted,
    code_pb2.UNAVAILABLE: Unavailable,
    code_pb2.DEADLINE_EXCEEDED: TimedOut,
    code_pb2.UNIMPLEMENTED: Unsupported,
}


def from_rpc_error(error: grpc.RpcError, address: str) -> PhantomError:
    """The exception that a failed RPC stands for; `address` is named where nobody answered."""
    number: int = error.code().value[0]
    trailing: Any = error.trailing_metadata()
    status = status_pb2.Status()
    for key, value in trailing or ():
        if key == _STATUS_KEY:
            status.MergeFromString(value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if not detail.Unpack(info):
            detail.Unpack(bad)
    message = error.details() or error.code().name
    if number == code_pb2.UNAVAILABLE and not info.reason:
        message = (
            f"nobody answers at {address} ({message}); is the platform up? `phantom-ml-studio status` tells"
        )
    result = _CLASSES.get(number, PhantomError)(
        message, code=info.reason or error.code().name.lower(), fields=dict(info.metadata)
    )
    result.violations = tuple((v.field, v.description) for v in bad.field_violations)
    return result
