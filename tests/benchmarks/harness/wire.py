"""A light gRPC client for the generator, on the platform's HTTP/2: about a third of the CPU of a grpc.aio client.

With two cores for everybody, what the generator spends is missing at the servers: a heavy one hides how they differ.
It has the calls of a grpc.aio channel that the generator uses, and sends what any gRPC client sends. The serving group
loads with grpc.aio too, so that everybody can see what the client does to the comparison.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import grpc

from phantom_platform.http2 import frames
from phantom_platform.http2.connection import Connection
from phantom_platform.http2.headers import HeaderDecoder, Pairs, literal
from phantom_platform.http2.streams import PREFIX_BYTES, MessageError, Stream, framed

MAX_MESSAGE = 256 * 1024 * 1024
_CODES = {b"%d" % code.value[0]: code for code in grpc.StatusCode}
Metadata = Sequence[tuple[str, str]] | None


class WireFailure(Exception):
    """A call that ended with another status than OK."""

    def __init__(self, status: grpc.StatusCode, details: str = "") -> None:
        super().__init__(f"{status.name}: {details}")
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status


class WireChannel(Connection):
    """One connection."""

    preface = frames.PREFACE
    settings: ClassVar[dict[int, int]] = {frames.ENABLE_PUSH: 0}

    def __init__(self, authority: str) -> None:
        super().__init__()
        self._authority = authority.encode()
        self._decoder: HeaderDecoder[Pairs] = HeaderDecoder(lambda pairs: pairs)
        self._next_id = 1

    @classmethod
    async def open(cls, address: str) -> WireChannel:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(address), host, int(port))
        return connection

    def unary_unary(self, path: str) -> Callable[..., asyncio.Future[bytes]]:
        """As a grpc.aio channel's: what calls, with body, timeout in seconds and metadata."""

        def call(
            body: bytes, timeout: float | None = None, metadata: Metadata = None
        ) -> asyncio.Future[bytes]:
            made = _Unary(self, self._take_id())
            made.begin(self._head(made.id, path, timeout, metadata), body, timeout)
            return made.answer

        return call

    def stream_stream(self, path: str) -> Callable[..., WireStream]:
        """As a grpc.aio channel's."""

        def call(metadata: Metadata = None) -> WireStream:
            made = WireStream(self, self._take_id())
            self.write(self._head(made.id, path, None, metadata))
            return made

        return call

    def _take_id(self) -> int:
        self.last_stream_id, self._next_id = self._next_id, self._next_id + 2
        return self.last_stream_id

    def _head(self, stream_id: int, path: str, timeout: float | None, metadata: Metadata) -> bytes:
        field = self.encoder.repeated
        block = [
            self.encoder.start(),
            b"\x83\x86",  # :method POST, :scheme http
            field(b":path", path.encode()),
            field(b":authority", self._authority),
            field(b"te", b"trailers"),
            field(b"content-type", b"application/grpc"),
            field(b"user-agent", b"phantom-bench/1"),
        ]
        if timeout:
            block.append(literal(b"grpc-timeout", b"%dm" % max(1, round(timeout * 1000))))
        block += [field(name.encode(), value.encode()) for name, value in metadata or ()]
        return frames.header_frames(stream_id, b"".join(block), 0, self.max_frame)

    def pause_writing(self) -> None:
        self.is_writable = False

    def headers_received(self, stream_id: int, block: bytes, is_last: bool) -> None:
        pairs = self._decoder.decode(block)
        stream = self.streams.get(stream_id)
        if stream is not None and is_last:
            assert isinstance(stream, _Answered)
            fields = dict(pairs)
            status = _CODES.get(fields.get(b"grpc-status", b""), grpc.StatusCode.UNKNOWN)
            stream.finish(status, fields.get(b"grpc-message", b"").decode())


class _Answered(Stream):
    """A call of either kind."""

    __slots__ = ()

    def __init__(self, channel: WireChannel, stream_id: int) -> None:
        super().__init__(channel, stream_id, channel.stream_credit, MAX_MESSAGE)
        channel.streams[stream_id] = self

    def finish(self, status: grpc.StatusCode, details: str) -> None:
        raise NotImplementedError

    def _closed(self) -> None:
        """This side has said its last; the answer is still to come."""
        self.is_local_closed = True

    def ended(self) -> None:
        """Trailers say how."""

    def failed(self, error: MessageError) -> None:
        self.finish(grpc.StatusCode.INTERNAL, str(error))

    def reset(self, code: int) -> None:
        self.finish(grpc.StatusCode.UNAVAILABLE, f"reset with {code}")


class _Unary(_Answered):
    __slots__ = ("_timer", "answer")

    def begin(self, head: bytes, body: bytes, timeout: float | None) -> None:
        loop = self.connection.loop
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self._timer = loop.call_later(timeout, self._late) if timeout else None
        size = len(body) + PREFIX_BYTES
        if size <= min(self.window, self.connection.window, self.connection.max_frame):
            # The usual: head and body, which is the last of the call, in one write.
            self.window -= size
            self.connection.window -= size
            data = frames.head(size, frames.DATA, frames.END_STREAM, self.id)
            self.connection.write(b"".join((head, data, framed(body))))
            self._closed()
            return
        self.connection.write(head)
        self.send(b"", body)
        self.end(lambda: frames.head(0, frames.DATA, frames.END_STREAM, self.id))

    def finish(self, status: grpc.StatusCode, details: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.is_remote_closed = True
        self.connection.forget(self)
        if self.answer.done():
            return
        if status is grpc.StatusCode.OK and self.messages:
            self.answer.set_result(self.messages.popleft())
        else:
            self.answer.set_exception(WireFailure(status, details))

    def _late(self) -> None:
        self.connection.write(frames.rst_stream(self.id, frames.CANCEL))
        self.finish(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed here")


class WireStream(_Answered):
    """A bidirectional call."""

    __slots__ = ("_reader", "_status")

    def __init__(self, channel: WireChannel, stream_id: int) -> None:
        super().__init__(channel, stream_id)
        self._reader: asyncio.Future[None] | None = None
        self._status: grpc.StatusCode | None = None

    async def write(self, message: bytes) -> None:
        self.send(b"", message)
        if self.is_held:
            await self.flushed()

    async def read(self) -> Any:
        """The next message; EOF after the last."""
        while not self.messages:
            if self._status is not None:
                return grpc.aio.EOF
            self._reader = self.connection.loop.create_future()
            await self._reader
        message = self.messages.popleft()
        if not self.messages:
            self.give_credit()
        return message

    async def done_writing(self) -> None:
        self.connection.write(frames.head(0, frames.DATA, frames.END_STREAM, self.id))
        self.is_local_closed = True

    async def code(self) -> grpc.StatusCode:
        return self._status or grpc.StatusCode.UNKNOWN

    def message_received(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def finish(self, status: grpc.StatusCode, details: str) -> None:
        self._status = status
        self.is_remote_closed = True
        self.connection.forget(self)
        self.message_received()
