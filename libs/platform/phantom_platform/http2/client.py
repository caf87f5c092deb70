"""One bidirectional call on a connection of its own: what a frame stream needs, and nothing else.

A message that comes is handed to a callback at once, inside the read that brought it: no future, no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import grpc

from phantom_platform.http2 import frames
from phantom_platform.http2.connection import Connection
from phantom_platform.http2.headers import HeaderDecoder, Pairs, literal
from phantom_platform.http2.requests import percent_decoded
from phantom_platform.http2.streams import MessageError, Stream

_STREAM_ID = 1
_UNKNOWN, _UNAVAILABLE = 2, 14
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_OF_HTTP = {b"400": 13, b"401": 16, b"403": 7, b"404": 12, b"429": 14, b"502": 14, b"503": 14, b"504": 14}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended."""

    code: grpc.StatusCode
    details: str


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A connection that has been silent for `after_s` is pinged; one that does not answer within `wait_s` is dead."""

    after_s: float = 10.0
    wait_s: float = 5.0


async def open_stream(
    address: str,
    path: str,
    on_message: Callable[[bytes], None],
    *,
    max_message: int,
    keepalive: Keepalive = Keepalive(),
) -> ClientCall:
    """Connect and begin the call. `on_message` gets each answer as it comes; the call's `ended` tells how it ended.

    Raises OSError where nobody listens at `host:port`.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: _ClientConnection(on_message, max_message, keepalive), host.strip("[]"), int(port)
    )
    return connection.begin(path, address)


class ClientCall(Stream):
    """The call. Its `ended` is set when no further message can come."""

    __slots__ = ("_drained", "_on_message", "_status", "ended_with")
    connection: _ClientConnection

    def __init__(
        self, connection: _ClientConnection, on_message: Callable[[bytes], None], max_message: int
    ) -> None:
        super().__init__(connection, _STREAM_ID, connection.stream_credit, max_message)
        self.ended_with: asyncio.Future[Ended] = connection.loop.create_future()
        self._on_message = on_message
        self._status: Ended | None = None
        self._drained: asyncio.Future[None] | None = None

    async def write(self, message: bytes) -> None:
        """Returns when the message, and all before it, is on its way; at once where the call has ended."""
        if self.ended_with.done():
            return
        self.send(b"", message)
        while self.is_held and not self.ended_with.done():
            self._drained = self.connection.loop.create_future()
            await self._drained

    def write_nowait(self, message: bytes) -> None:
        """As `write`; what a window has no room for goes out when it has."""
        if not self.ended_with.done():
            self.send(b"", message)

    def cancel(self) -> None:
        """End it now, from here."""
        if not self.ended_with.done():
            self.connection.write(frames.rst_stream(self.id, frames.CANCEL))
            self._end(Ended(grpc.StatusCode.CANCELLED, "cancelled here"))

    # -- from the connection -------------------------------------------------------------------------------------

    def message_received(self) -> None:
        self._on_message(self.messages.popleft())

    def answered(self, pairs: Pairs, is_last: bool) -> None:
        """Headers of the answer, or its trailers."""
        fields = dict(pairs)
        self.encoding = fields.get(b"grpc-encoding", self.encoding)
        http = fields.get(b":status", b"200")
        if http != b"200":
            status = _OF_HTTP.get(http, _UNKNOWN)
            self._end(Ended(_CODES[status], f"HTTP status {http.decode('latin-1')}"))
        elif is_last:
            text = fields.get(b"grpc-status", b"")
            code = (
                _CODES.get(int(text), grpc.StatusCode.UNKNOWN) if text.isdigit() else grpc.StatusCode.UNKNOWN
            )
            self._end(Ended(code, percent_decoded(fields.get(b"grpc-message", b""))))

    def ended(self) -> None:
        self._end(Ended(grpc.StatusCode.INTERNAL, "the stream ended without a status"))

    def failed(self, error: MessageError) -> None:
        self.connection.write(frames.rst_stream(self.id, frames.CANCEL))
        self._end(Ended(_CODES[error.status], str(error)))

    def reset(self, code: int) -> None:
        self._end(Ended(grpc.StatusCode.UNAVAILABLE, f"the stream was reset with HTTP/2 code {code}"))

    def drained(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _end(self, ended: Ended) -> None:
        self.is_local_closed = self.is_remote_closed = True
        if not self.ended_with.done():
            self.ended_with.set_result(ended)
        self.drained()
        self.connection.forget(self)
        self.connection.transport.close()


class _ClientConnection(Connection):
    preface = frames.PREFACE
    settings: ClassVar[dict[int, int]] = {frames.ENABLE_PUSH: 0}

    def __init__(self, on_message: Callable[[bytes], None], max_message: int, keepalive: Keepalive) -> None:
        super().__init__()
        self._on_message = on_message
        self._max_message = max_message
        self._keepalive = keepalive
        self._decoder: HeaderDecoder[Pairs] = HeaderDecoder(lambda pairs: pairs)
        self._call: ClientCall | None = None
        self._heard = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, path: str, authority: str) -> ClientCall:
        call = self._call = ClientCall(self, self._on_message, self._max_message)
        self.streams[call.id] = call
        self.last_stream_id = call.id
        block = b"\x83\x86" + b"".join(  # :method POST, :scheme http
            literal(name, value)
            for name, value in (
                (b":path", path.encode()),
                (b":authority", authority.encode()),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                (b"grpc-accept-encoding", b"identity,deflate,gzip"),
            )
        )
        self.write(frames.header_frames(call.id, block, 0, self.max_frame))
        self._watch()
        return call

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        """Read on: were both sides to stop reading until the other does, neither would go on."""
        self.is_writable = False

    def headers_received(self, stream_id: int, block: bytes, is_last: bool) -> None:
        pairs = self._decoder.decode(block)
        if (stream := self.streams.get(stream_id)) is not None:
            assert isinstance(stream, ClientCall)
            stream.answered(pairs, is_last)

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        if self._call is not None and last_stream_id < self._call.id:
            self._call.reset(code)

    def closed(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        """Ping a silent peer; a silent one that was pinged is dead."""
        silent = self.loop.time() - self._heard
        rule = self._keepalive
        if silent >= rule.after_s + rule.wait_s:
            self.transport.abort()
            return
        if silent >= rule.after_s:
            self.write(frames.ping(b"are you?"))
            again = rule.wait_s
        else:
            again = rule.after_s - silent
        self._timer = self.loop.call_later(again + 0.001, self._watch)
