"""Following something that changes, by asking again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from phantom_ml_studio.errors import TimedOut

POLL_S = 0.5


class Ending(Protocol):
    """What can be followed."""

    @property
    def has_ended(self) -> bool:
        """Nothing will change any more."""
        ...


E = TypeVar("E", bound=Ending)


def changes(ask: Callable[[], E], timeout_s: float | None, code: str) -> Iterator[E]:
    """What it is now, then each change of it, until it has ended. Errors: TimedOut with that code."""
    give_up = None if timeout_s is None else time.monotonic() + timeout_s
    last: E | None = None
    while True:
        now = ask()
        if now != last:
            yield now
        if now.has_ended:
            return
        if give_up is not None and time.monotonic() > give_up:
            raise TimedOut(f"it has not ended after {timeout_s:g} s", code=code)
        last = now
        time.sleep(POLL_S)
