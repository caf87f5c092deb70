"""The smallest HTTP/1.1 client that can load a server: keep-alive, one request at a time on a connection."""

from __future__ import annotations

import asyncio
from typing import cast


class HttpFailure(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:200]!r}")
        self.status = status


class HttpConnection(asyncio.Protocol):
    """One connection; `post` sends a body and awaits the answer's."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, address: str, path: str, headers: tuple[tuple[str, str], ...]) -> HttpConnection:
        """Connect to host:port."""
        host, port = address.rsplit(":", 1)
        given = {name.lower() for name, _ in headers}
        lines = [f"POST {path} HTTP/1.1", f"Host: {address}"]
        if "content-type" not in given:
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in headers]
        head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(head), host, int(port))
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their type.
        self._transport = cast(asyncio.Transport, transport)

    async def post(self, body: bytes) -> bytes:
        """The answer's body; HttpFailure where its status is not 200."""
        assert self._answer is None, "one request at a time"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        parsed = parse_answer(self._buffer)
        if parsed is None or self._answer is None:
            return
        status, body, rest = parsed
        self._buffer, answer, self._answer = rest, self._answer, None
        if status == 200:
            answer.set_result(body)
        else:
            answer.set_exception(HttpFailure(status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed by the server"))


def parse_answer(data: bytes) -> tuple[int, bytes, bytes] | None:
    """(status, body, what follows) of a whole answer; None while some of it is missing."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    status, begin = int(head[9:12]), end + 4
    place = head.find(b"\r\ncontent-length:")
    if place >= 0:
        stop = head.find(b"\r\n", place + 2)
        size = int(head[place + 17 : stop if stop >= 0 else len(head)])
        return (
            None if len(data) < begin + size else (status, data[begin : begin + size], data[begin + size :])
        )
    if b"\r\ntransfer-encoding: chunked" in head:
        found = _chunks(data, begin)
        return None if found is None else (status, *found)
    return status, b"", data[begin:]


def _chunks(data: bytes, place: int) -> tuple[bytes, bytes] | None:
    parts = []
    while True:
        line = data.find(b"\r\n", place)
        if line < 0:
            return None
        size, place = int(data[place:line].split(b";")[0], 16), line + 2
        if len(data) < place + size + 2:
            return None
        if size == 0:
            return b"".join(parts), data[place + 2 :]
        parts.append(data[place : place + size])
        place += size + 2
