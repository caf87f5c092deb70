"""Waking whoever waits for something to change."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Bell:
    """`ring` ends every `heard` that is waiting. Check, then wait: nothing between the two may await."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        rung, self._event = self._event, asyncio.Event()
        rung.set()

    async def heard(self, timeout_s: float) -> None:
        """Returns when it rings, or after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
