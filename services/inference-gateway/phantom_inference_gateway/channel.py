"""What the process of a worker group and its workers say to each other over a pair of sockets: JSON, length first.

The group asks `{"id": n, "what": "metrics" | "standing"}`, the worker answers with the same id. Before it ends, the
worker sends its last metrics unasked, with id 0. When either side's process has gone, the other reads the end.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from phantom_inference_gateway.domain.totals import Family

METRICS, STANDING = "metrics", "standing"
UNASKED = 0
_LENGTH = struct.Struct(">I")


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Takes the socket over."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None when nobody is at the other end."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: dict[str, Any] = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return message

    async def send(self, message: Mapping[str, object]) -> None:
        """Raises OSError where nobody is at the other end."""
        if self._writer.is_closing():
            raise ConnectionResetError("the channel is closed")
        text = json.dumps(message, separators=(",", ":")).encode()
        self._writer.write(_LENGTH.pack(len(text)) + text)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


def written(families: Iterable[Family]) -> list[object]:
    """Families as JSON."""
    return [
        [
            each.name,
            each.kind,
            each.help,
            [[name, labels, value] for (name, labels), value in each.samples.items()],
        ]
        for each in families
    ]


def read(said: Iterable[Any]) -> list[Family]:
    """Families from JSON, as `written` made it."""
    return [
        Family(
            name,
            kind,
            help_text,
            {
                (sample, tuple((key, text) for key, text in labels)): value
                for sample, labels, value in samples
            },
        )
        for name, kind, help_text, samples in said
    ]
