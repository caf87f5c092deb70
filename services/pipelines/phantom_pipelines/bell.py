"""Waking whoever waits for something to change."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Bell:
    """A `ring` is heard by the next `heard`, also where it came before."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def heard(self, timeout_s: float) -> None:
        """Returns when it rings, or after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()
