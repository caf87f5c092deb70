"""One bidirectional call on a connection of its own: what a frame stream needs, and nothing else.

A message that comes is handed to a callback at once, inside the read that brought it: no future, no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc

from phantom_platform.http2 import frames
from phantom_platform.http2.connection import Connection
from phantom_platform.http2.frames import ConnectionError_
from phantom_platform.http2.headers import HeaderDecoder, Pairs, TooLargeError, literal
from phantom_platform.http2.requests import percent_decoded
from phantom_platform.http2.streams import MessageError, Stream
from phantom_platform.telemetry import logs

log = logs.get(__name__)

_STREAM_ID = 1
_LAST_LOOK_S = 0.1
_UNKNOWN = 2
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CODES_SENT = {b"%d" % number: code for number, code in _CODES.items()}
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

    __slots__ = ("_on_message", "ended_with")
    connection: _ClientConnection

    def __init__(
        self, connection: _ClientConnection, on_message: Callable[[bytes], None], max_message: int
    ) -> None:
        super().__init__(connection, _STREAM_ID, connection.stream_credit, max_message)
        self.ended_with: asyncio.Future[Ended] = connection.loop.create_future()
        self._on_message = on_message

    async def write(self, message: bytes) -> None:
        """Returns when the message, and all before it, is on its way; at once where the call has ended."""
        if self.ended_with.done():
            return
        self.send(b"", message)
        if self.is_held:
            await self.flushed()

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
            code = _CODES_SENT.get(fields.get(b"grpc-status", b""), grpc.StatusCode.UNKNOWN)
            self._end(Ended(code, percent_decoded(fields.get(b"grpc-message", b""))))

    def ended(self) -> None:
        self._end(Ended(grpc.StatusCode.INTERNAL, "the stream ended without a status"))

    def failed(self, error: MessageError) -> None:
        self.connection.write(frames.rst_stream(self.id, frames.CANCEL))
        self._end(Ended(_CODES[error.status], str(error)))

    def reset(self, code: int) -> None:
        is_lost = self.connection.is_lost
        why = "the connection was lost" if is_lost else f"the stream was reset with HTTP/2 code {code}"
        self._end(Ended(grpc.StatusCode.UNAVAILABLE, why))

    def _end(self, ended: Ended) -> None:
        self.is_local_closed = self.is_remote_closed = True
        if not self.ended_with.done():
            self.ended_with.set_result(ended)
        self.drained()
        self.connection.forget(self)
        self.connection.is_finished = True
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
        self._heard = self.loop.time()
        # How often it was found silent since: it is pinged first, and looked at once more before it is dead.
        self._doubts = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # Here already, for the peer may end the connection before the call begins.
        self._call = ClientCall(self, self._on_message, self._max_message)
        self.streams[_STREAM_ID] = self._call

    def begin(self, path: str, authority: str) -> ClientCall:
        call = self._call
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
        if not self.is_finished:
            self._watch()
        return call

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        self._doubts = 0
        super().data_received(data)

    def pause_writing(self) -> None:
        """Read on: were both sides to stop reading until the other does, neither would go on."""
        self.is_writable = False

    def headers_received(self, stream_id: int, block: bytes, is_last: bool) -> None:
        try:
            pairs = self._decoder.decode(block)
        except TooLargeError as error:
            raise ConnectionError_(frames.ENHANCE_YOUR_CALM, str(error)) from error
        if (stream := self.streams.get(stream_id)) is not None:
            assert isinstance(stream, ClientCall)
            stream.answered(pairs, is_last)

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        if last_stream_id < self._call.id:
            self._call.reset(code)

    def closed(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        """Ping a silent peer; a silent one that was pinged is dead."""
        now, rule = self.loop.time(), self._keepalive
        again = rule.after_s - (now - self._heard)
        if again <= 0:
            self._doubts += 1
            if self._doubts == 1:
                self.write(frames.ping(b"are you?"))
                again = rule.wait_s
            elif self._doubts == 2:
                # This process may have stood still itself, with the answer waiting: what is there is read first.
                again = _LAST_LOOK_S
            else:
                log.warning(
                    "a silent peer is given up", action="http2_peer_silent", silent_s=now - self._heard
                )
                self.transport.abort()
                return
        self._timer = self.loop.call_later(again + 0.001, self._watch)
