"""Waiting for a condition that nobody announces, such as what another process will have written."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any


async def until(
    condition: Callable[[], Any | Awaitable[Any]], *, within_s: float = 15.0, every_s: float = 0.02
) -> Any:
    """The first true value of `condition`; AssertionError with its last value when the time is over."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {within_s} s; last seen: {value!r}")
        await asyncio.sleep(every_s)
