"""Taking a replica away without losing a call (contracts §5).

Told to stop, a replica says so on every open stream, refuses what has not begun, and is done when nothing is in
flight and every gateway has closed its stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Tell = Callable[[bytes], Awaitable[None]]


class Gate:
    """Counts what is open, and closes once. All on one event loop."""

    def __init__(self) -> None:
        self.is_draining = False
        self.route_record = b""  # of the Drain call; empty where there was none
        self.timeout_s = 0.0
        self.in_flight = 0
        self._streams: dict[int, Tell] = {}
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def begin(self, calls: int) -> None:
        self.in_flight += calls

    def end(self, calls: int) -> None:
        self.in_flight -= calls
        self._changed.set()

    def opened(self, stream: int, tell: Tell) -> None:
        """A stream is there; `tell` sends it `draining` with a route record."""
        self._streams[stream] = tell
        if self.is_draining:
            self._tell(tell)

    def ended(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self._changed.set()

    def close(self, route_record: bytes, timeout_s: float) -> None:
        """Stop taking work. A second time only a route record, where the first had none, makes a difference."""
        if self.is_draining and (self.route_record or not route_record):
            return
        self.route_record = route_record
        if not self.is_draining:
            self.is_draining, self.timeout_s = True, timeout_s
        for tell in list(self._streams.values()):
            self._tell(tell)
        self._closed.set()

    async def closed(self) -> None:
        """Return once `close` was called."""
        await self._closed.wait()

    async def idle(self) -> bool:
        """Wait until nothing is open; False where that took longer than the time allowed."""
        try:
            async with asyncio.timeout(self.timeout_s):
                while self.in_flight or self._streams:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self, tell: Tell) -> None:
        async def send() -> None:
            await tell(self.route_record)

        task = asyncio.ensure_future(send())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
