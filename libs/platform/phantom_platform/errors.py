"""Errors that every layer speaks: they say what happened and what may happen next, nothing about transport.

A class's docstring is its default message. `code` is stable and meant for programs, `message` for people,
`fields` carry ids. `Unavailable` is the only temporary one: it is retried, every other one is final.
How they become gRPC or HTTP statuses, retries or dead letters is said in tables at the doors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class PhantomError(Exception):
    """Something in Phantom failed."""

    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str | None = None, *, code: str | None = None, **fields: object) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.code = code or self.default_code
        self.fields: dict[str, object] = fields
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class NotFound(PhantomError):
    """What was asked for does not exist."""

    default_code = "not_found"


class AlreadyExists(PhantomError):
    """It exists already, with other content."""

    default_code = "already_exists"


class Conflict(PhantomError):
    """It was changed by someone else in the meantime; read it again and repeat."""

    default_code = "conflict"


class Refused(PhantomError):
    """The current state does not allow this."""

    default_code = "refused"


class Exhausted(PhantomError):
    """A limit was reached."""

    default_code = "exhausted"


class Unauthenticated(PhantomError):
    """Who is calling is not known: a token is missing, expired or not valid."""

    default_code = "unauthenticated"


class Forbidden(PhantomError):
    """The caller lacks the permission for this."""

    default_code = "forbidden"


class Unsupported(PhantomError):
    """This is not supported."""

    default_code = "unsupported"


class DeadlineExceeded(PhantomError):
    """The time allowed for this has passed."""

    default_code = "deadline_exceeded"


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field; `field` is a path such as `schema.inputs[2].name`."""

    field: str
    description: str


class Invalid(PhantomError):
    """The input is not valid."""

    default_code = "invalid"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        violations: Sequence[Violation] = (),
        **fields: object,
    ) -> None:
        self.violations: list[Violation] = list(violations)
        if message is None and violations:
            message = "; ".join(f"{each.field}: {each.description}" for each in violations)
        super().__init__(message, code=code, **fields)


class Unavailable(PhantomError):
    """Something that is needed is away at the moment; try again."""

    default_code = "unavailable"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        retry_after_s: float = 1.0,
        **fields: object,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, code=code, **fields)
