"""Which of Postgres's failures are temporary: they become `Unavailable`. A text it cannot store is the caller's
mistake, `Invalid`; every other failure passes as it is."""

from __future__ import annotations

from types import TracebackType

import asyncpg

from phantom_platform.errors import Invalid, Unavailable

# SQLSTATE classes and codes after which the same work may succeed when it is done again.
_AWAY = ("08", "53", "57P01", "57P02", "57P03", "57P05", "25006", "58030")
_REPEAT = ("40001", "40P01", "55P03", "57014")
# A caller's text with a NUL in it, as text or inside JSON.
_UNSTORABLE = ("22021", "22P05")
RETRY_AFTER_S = 0.5
# Everything that asyncpg raises; besides these only OSError and TimeoutError come out of it.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def unavailable(error: BaseException) -> Unavailable | None:
    """The `Unavailable` that `error` of asyncpg means, or None where it is permanent or not Postgres's."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state.startswith(_REPEAT):
            return Unavailable(
                "The transaction collided with another one or took too long; repeat it.",
                code="transaction_interrupted",
                retry_after_s=0.05,
                sqlstate=state,
            )
        if not state.startswith(_AWAY) and not isinstance(error, asyncpg.PostgresConnectionError):
            return None
    elif not _is_lost_connection(error):
        return None
    reason = str(error) or type(error).__name__
    return Unavailable(
        f"Postgres is away: {reason}", code="postgres_unavailable", retry_after_s=RETRY_AFTER_S
    )


def _is_lost_connection(error: BaseException) -> bool:
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg says so in words only; wrong arguments are InterfaceErrors too.
        return any(word in str(error) for word in ("closed", "closing", "released back", "terminated"))
    # An idle connection that reads a crashed server's farewell, the moment before it is lost [ran, 0.32].
    return isinstance(error, asyncpg.InternalClientError) and "(2) is in progress" in str(error)


class translated:  # noqa: N801 - used as a verb; a class, since every statement passes through it
    """Around calls into asyncpg only: there an OSError or a timeout is the connection's."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, OSError | TimeoutError):
            reason = str(error) or type(error).__name__
            raise Unavailable(
                f"Postgres is away: {reason}", code="postgres_unavailable", retry_after_s=RETRY_AFTER_S
            ) from error
        if not isinstance(error, DRIVER_ERRORS):
            return
        if (temporary := unavailable(error)) is not None:
            raise temporary from error
        if getattr(error, "sqlstate", None) in _UNSTORABLE:
            raise Invalid(
                "a text contains a character that cannot be stored (NUL)", code="invalid_text"
            ) from error
