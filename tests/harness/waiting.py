"""Waiting for other processes: on a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(read: Callable[[], T], what: str, within_s: float = 30.0) -> T:
    """The first true value that `read` returns; fails saying what it last returned."""
    give_up = time.monotonic() + within_s
    while not (found := read()):
        assert time.monotonic() < give_up, (
            f"{what} did not happen within {within_s:g} s; last seen: {found!r}"
        )
        time.sleep(0.05)
    return found
