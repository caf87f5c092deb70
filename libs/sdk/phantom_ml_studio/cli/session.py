"""What every command that calls the platform stands in: a login, one trace, and errors in words with an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from phantom_ml_studio.cli.output import FAILED, LOGIN, REFUSED, TIMED_OUT, fail, say

if TYPE_CHECKING:
    from phantom_ml_studio.client import Client
    from phantom_ml_studio.errors import PhantomError


@contextmanager
def connected() -> Iterator[Client]:
    """A client of whoever is logged in; says so where nobody answers at once."""
    from phantom_ml_studio.client import Client

    with errors_explained(), Client(on_retry=_Waiting()) as client:
        yield client


@contextmanager
def errors_explained() -> Iterator[None]:
    """Turn the SDK's errors into what, why, where to look, and an exit code. Calls inside share one trace."""
    from phantom_ml_studio import errors, tracing

    try:
        with tracing.trace():
            yield
    except errors.PhantomError as error:
        codes: dict[type[errors.PhantomError], int] = {
            errors.Unauthenticated: LOGIN,
            errors.Forbidden: LOGIN,
            errors.Refused: REFUSED,
            errors.TimedOut: TIMED_OUT,
        }
        said = [f"{error.message} [{error.code}]"]
        said += [f"  {field}: {what}" for field, what in error.violations]
        if error.trace_id:
            said.append(f"  trace {error.trace_id}")
        fail("\n".join(said), codes.get(type(error), FAILED))


class _Waiting:
    """Says once that nobody answers yet."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, error: PhantomError) -> None:
        if not self._said:
            say(f"{error.message}; trying again for some seconds")
        self._said = True
