"""For the tests of `phantom_platform.http2`: a server of ours, and a peer that speaks in single frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import hpack

from phantom_platform.http2 import frames
from phantom_platform.http2.server import Server
from phantom_platform.http2.streams import framed

SERVICE = "test.Words"
MIB = 2**20


def path(method: str) -> str:
    return f"/{SERVICE}/{method}"


@asynccontextmanager
async def serving(*, max_message: int = 64 * MIB, **handlers) -> AsyncIterator[int]:
    """A server of ours with these methods; its port."""
    server = Server(max_message=max_message)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def _echo(body, context):
    return body


async def _echo_all(requests, context):
    async for each in requests:
        yield each


echo = grpc.unary_unary_rpc_method_handler(_echo)
echo_all = grpc.stream_stream_rpc_method_handler(_echo_all)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def is_last(self) -> bool:
        return self.kind in (frames.DATA, frames.HEADERS) and bool(self.flags & frames.END_STREAM)

    @property
    def code(self) -> int:
        """Of RST_STREAM or GOAWAY."""
        return int.from_bytes(
            self.payload[:4] if self.kind == frames.RST_STREAM else self.payload[4:8], "big"
        )


@dataclass
class Answer:
    """All that came on one stream until it ended."""

    headers: list[dict[str, str]] = field(default_factory=list)
    data: bytes = b""
    reset: int | None = None

    @property
    def trailers(self) -> dict[str, str]:
        return self.headers[-1]

    @property
    def status(self) -> str:
        return self.trailers["grpc-status"]


def request_of(method: str = "Echo", *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path(method)),
        (":authority", "here"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


class Peer:
    """A client that does nothing by itself, but for acknowledging nothing and answering nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.seen: list[Frame] = []

    @classmethod
    async def connect(cls, port: int, settings: dict[int, int] | None = None) -> Peer:
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        peer.send(frames.PREFACE + frames.settings(settings or {}))
        return peer

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_) -> None:
        self.writer.transport.abort()

    def send(self, *parts: bytes) -> None:
        if not self.writer.transport.is_closing():
            self.writer.write(b"".join(parts))

    def headers(
        self, stream_id: int, pairs: list[tuple[str, str]] | None = None, flags: int = frames.END_HEADERS
    ) -> bytes:
        block = self.encoder.encode(pairs or request_of())
        return frames.head(len(block), frames.HEADERS, flags, stream_id) + block

    @staticmethod
    def data(stream_id: int, payload: bytes, *, is_last: bool = False) -> bytes:
        return (
            frames.head(len(payload), frames.DATA, frames.END_STREAM if is_last else 0, stream_id) + payload
        )

    def ask(self, stream_id: int, message: bytes = b"hello", method: str = "Echo", *more) -> None:
        """A whole unary request."""
        self.send(self.headers(stream_id, request_of(method, *more)))
        self.send(self.data(stream_id, framed(message), is_last=True))

    async def frame(self) -> Frame:
        """The next frame. Raises IncompleteReadError or ConnectionError where there is none any more."""
        head = await self.reader.readexactly(frames.HEAD_BYTES)
        high, low, kind, flags, stream_id = frames.HEAD.unpack(head)
        frame = Frame(kind, flags, stream_id, await self.reader.readexactly(high << 8 | low))
        self.seen.append(frame)
        return frame

    async def until(self, kind: int, stream_id: int | None = None) -> Frame:
        async with asyncio.timeout(10):
            while True:
                frame = await self.frame()
                if frame.kind == kind and stream_id in (None, frame.stream_id):
                    return frame

    async def answer(self, stream_id: int) -> Answer:
        """What comes on that stream until it ends. All blocks are decoded, whatever stream they are of."""
        answer = Answer()
        async with asyncio.timeout(10):
            while True:
                frame = await self.frame()
                pairs = self.decoder.decode(frame.payload) if frame.kind == frames.HEADERS else []
                if frame.stream_id != stream_id:
                    continue
                if frame.kind == frames.HEADERS:
                    answer.headers.append({str(name): str(value) for name, value in pairs})
                elif frame.kind == frames.DATA:
                    answer.data += frame.payload
                elif frame.kind == frames.RST_STREAM:
                    answer.reset = frame.code
                if frame.is_last or answer.reset is not None:
                    return answer

    async def end(self) -> Frame | None:
        """The GOAWAY that the connection ended with, or None; returns once it is closed."""
        goaway = None
        async with asyncio.timeout(10):
            try:
                while True:
                    if (frame := await self.frame()).kind == frames.GOAWAY:
                        goaway = frame
            except (asyncio.IncompleteReadError, ConnectionError):
                return goaway

    async def ping(self) -> None:
        """Everything sent before has been dealt with: read at the first answer, its handlers begun at the second."""
        for payload in (b"the 1st.", b"the 2nd."):
            self.send(frames.ping(payload))
            while (await self.until(frames.PING)).payload != payload:
                continue

    async def settled(self, *, is_last: bool = False) -> None:
        """Returns once the server has answered a ping, or has ended the connection (as it does after `is_last`)."""
        self.send(frames.ping(b"settled?"))
        if is_last and not self.writer.transport.is_closing():
            self.writer.write_eof()
        async with asyncio.timeout(10):
            try:
                while (frame := await self.frame()).kind != frames.PING or frame.payload != b"settled?":
                    continue
            except (asyncio.IncompleteReadError, ConnectionError):
                return
