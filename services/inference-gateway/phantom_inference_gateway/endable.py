"""An aiokafka producer that can be ended at once, whatever it has not sent.

aiokafka's own `stop` waits until everything is sent, and one that is given up leaves the sender, and requests that
are still connecting, running: they would send later, unmarked, beside the repeat. This is the only file that
reaches into aiokafka (0.14, pinned).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

_PATIENCE_S = 5.0


class EndableProducer(AIOKafkaProducer):  # type: ignore[misc] # aiokafka has no types
    """Takes the arguments of AIOKafkaProducer."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._requests: set[asyncio.Task[None]] = set()
        send = self._sender._send_produce_req

        async def tracked(node_id: int, batches: dict[Any, Any]) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
            await send(node_id, batches)

        self._sender._send_produce_req = tracked

    @property
    def has_ended(self) -> bool:
        """Whether what is handed over now will never be sent."""
        return bool(self._closed)

    async def end(self) -> None:
        """Send nothing any more. What the operating system has accepted may still arrive."""
        self._closed = True
        tasks = {*self._requests}
        if self._sender.sender_task is not None:
            tasks.add(self._sender.sender_task)
        for task in tasks:
            task.cancel()
        for connection in list(self.client._conns.values()):
            with suppress(AttributeError):  # closed already
                connection._writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE_S)
        with suppress(TimeoutError, KafkaError, OSError):
            await asyncio.wait_for(self.client.close(), _PATIENCE_S)
