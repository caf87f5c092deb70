"""One HTTP/2 connection: frames in and out, flow control, settings, pings. What a stream means is its owner's."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from phantom_platform.http2 import frames
from phantom_platform.http2.frames import ConnectionError_, StreamError
from phantom_platform.http2.headers import HeaderEncoder, HeaderError
from phantom_platform.http2.streams import Stream
from phantom_platform.telemetry import logs

log = logs.get(__name__)

STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024
MAX_BLOCK_BYTES = 64 * 1024
LINGER_S = 1.0
_MAX_CUT = 4096
_HEAD, _HEAD_BYTES = frames.HEAD, frames.HEAD_BYTES
_STREAM_ID = frames.MAX_WINDOW


class Connection(asyncio.Protocol):
    """A protocol of asyncio; subclasses are the server's and the client's side."""

    settings: ClassVar[dict[int, int]] = {}
    preface = b""
    stream_credit = STREAM_WINDOW

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.streams: dict[int, Stream] = {}
        self.last_stream_id = 0
        self.encoder = HeaderEncoder()
        # What may be sent on the connection, and on a new stream; the peer's greatest frame.
        self.window = frames.DEFAULT_WINDOW
        self.peer_stream_window = frames.DEFAULT_WINDOW
        self.max_frame = frames.DEFAULT_FRAME_BYTES
        self.is_writable = True
        self.is_lost = False
        # Nothing is said, and nothing that comes is looked at any more.
        self.is_finished = False
        self._rest = b""
        self._received = 0
        # Streams with something to send that a window holds back, in turn.
        self._held: dict[int, Stream] = {}
        # Streams that were cut off from here: what the peer sent of them before it knew is nobody's.
        self._cut: dict[int, None] = {}
        # A header block that CONTINUATIONs complete: stream, flags, parts.
        self._block: tuple[int, int, list[bytes]] | None = None
        self._has_settings = False

    # -- for subclasses ----------------------------------------------------------------------------------------

    def headers_received(self, stream_id: int, block: bytes, is_last: bool) -> None:
        raise NotImplementedError

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        """The peer will open no further streams, or answer none above that id."""

    def pong_received(self, payload: bytes) -> None:
        """The answer to a PING."""

    def closed(self, error: Exception | None) -> None:
        """The connection is gone; its streams have been told."""

    # -- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        grown = frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        own = {frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW, **self.settings}
        transport.write(self.preface + frames.settings(own) + grown)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = self.is_finished = True
        for stream in list(self.streams.values()):
            stream.reset(frames.CANCEL)
        self.streams.clear()
        self._held.clear()
        self.closed(exc)

    def pause_writing(self) -> None:
        """The peer does not read: read nothing of it either, so that its requests and pings pile up at its side."""
        self.is_writable = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_writable = True
        self.transport.resume_reading()
        self.pump()

    def data_received(self, data: bytes) -> None:
        if self.is_finished:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            self._rest = self._frames(data)
        except (ConnectionError_, HeaderError) as error:
            code = error.code if isinstance(error, ConnectionError_) else frames.COMPRESSION_ERROR
            self.fail(code, str(error))

    def _frames(self, data: bytes) -> bytes:
        """Handle each whole frame; what is left."""
        at, end = 0, len(data)
        while end - at >= _HEAD_BYTES:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > frames.DEFAULT_FRAME_BYTES:
                raise ConnectionError_(frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = at + _HEAD_BYTES
            if end - begin < length:
                break
            at = begin + length
            stream_id &= _STREAM_ID
            try:
                if self._block is None and self._has_settings and (take := _OFTEN.get(kind)) is not None:
                    take(self, flags, stream_id, data[begin:at])
                else:
                    self._frame(kind, flags, stream_id, data[begin:at])
            except StreamError as error:
                self.cut(error.stream_id, error.code)
                if (stream := self.streams.get(error.stream_id)) is not None:
                    stream.reset(error.code)
                    self.forget(stream)
            if self.is_finished:
                return b""
        return data[at:] if at else data

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "a header block was interrupted")
        if not self._has_settings and kind != frames.SETTINGS:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind < len(_KINDS):
            _KINDS[kind](self, flags, stream_id, payload)

    # -- data and headers -----------------------------------------------------------------------------------------

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        length = len(payload)
        self._received += length
        if self._received > CONNECTION_WINDOW // 2:
            self.write(frames.window_update(0, self._received))
            self._received = 0
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_remote_closed:
            if stream_id > self.last_stream_id or not stream_id:
                raise ConnectionError_(frames.PROTOCOL_ERROR, "DATA on a stream that was never opened")
            if self.was_cut(stream_id):
                return
            raise StreamError(stream_id, frames.STREAM_CLOSED)
        stream.credit -= length
        if stream.credit < 0:
            raise StreamError(stream_id, frames.FLOW_CONTROL_ERROR)
        if flags & frames.PADDED:
            payload = frames.unpadded(payload, flags, False, stream_id)
        stream.data_received(payload, bool(flags & frames.END_STREAM))

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (frames.PADDED | frames.WITH_PRIORITY):
            payload = frames.unpadded(payload, flags, True, stream_id)
        if flags & frames.END_HEADERS:
            self.headers_received(stream_id, payload, bool(flags & frames.END_STREAM))
        else:
            self._block = (stream_id, flags, [payload])

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        _, first, parts = self._block
        parts.append(payload)
        if sum(map(len, parts)) > MAX_BLOCK_BYTES or len(parts) > MAX_BLOCK_BYTES // 1024:
            raise ConnectionError_(frames.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self.headers_received(stream_id, b"".join(parts), bool(first & frames.END_STREAM))

    # -- the other frames -----------------------------------------------------------------------------------------

    def _priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise StreamError(stream_id, frames.FRAME_SIZE_ERROR)
        if frames.read_word(payload[:4]) & _STREAM_ID == stream_id:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR)

    def _rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        code = frames.read_word(payload)
        if not stream_id or stream_id > self.last_stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.reset(code)
            self.forget(stream)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionError_(
                    frames.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS has a payload"
                )
            return
        for name, value in frames.read_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                self._resize_windows(value)
            elif name == frames.MAX_FRAME_SIZE:
                self.max_frame = value
            elif name == frames.HEADER_TABLE_SIZE:
                self.encoder.limit(value)
        self._has_settings = True
        self.write(frames.SETTINGS_ACK)
        self.pump()

    def _resize_windows(self, value: int) -> None:
        change = value - self.peer_stream_window
        self.peer_stream_window = value
        for stream in self.streams.values():
            stream.window += change
            if stream.window > frames.MAX_WINDOW:
                raise ConnectionError_(frames.FLOW_CONTROL_ERROR, "a window is above 2^31 - 1")

    def _push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionError_(frames.PROTOCOL_ERROR, "PUSH_PROMISE is not taken here")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionError_(frames.FRAME_SIZE_ERROR, "PING is not 8 bytes long")
        if flags & frames.ACK:
            self.pong_received(payload)
        else:
            self.write(frames.ping(payload, frames.ACK))

    def _goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "GOAWAY on a stream")
        self.goaway_received(*frames.read_goaway(payload))

    def _window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.read_word(payload) & _STREAM_ID
        if not stream_id:
            self.window += increment
            if not increment or self.window > frames.MAX_WINDOW:
                code = frames.FLOW_CONTROL_ERROR if increment else frames.PROTOCOL_ERROR
                raise ConnectionError_(code, "WINDOW_UPDATE of nothing, or above 2^31 - 1")
            self.pump()
            return
        if stream_id > self.last_stream_id:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
        if (stream := self.streams.get(stream_id)) is not None:
            stream.window += increment
            if not increment or stream.window > frames.MAX_WINDOW:
                code = frames.FLOW_CONTROL_ERROR if increment else frames.PROTOCOL_ERROR
                raise StreamError(stream_id, code)
            if stream_id in self._held:
                self.hold(stream)

    # -- sending --------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self.is_finished and not self.transport.is_closing():
            self.transport.write(data)

    def hold(self, stream: Stream) -> None:
        """Send what the windows have room for of what it has; the rest when they have.

        No other stream can send more than before by what changed for this one.
        """
        self._held[stream.id] = stream
        while self.window > 0 and self.is_writable and stream.send_held():
            pass
        if not stream.is_held:
            self._held.pop(stream.id, None)

    def pump(self) -> None:
        """Send what the windows have room for, a frame of each stream in turn."""
        held, is_moving = self._held, True
        while held and is_moving:
            is_moving = False
            for stream in list(held.values()):
                if self.window <= 0 or not self.is_writable:
                    return
                if not stream.send_held():
                    continue
                is_moving = True
                if held.pop(stream.id, None) is not None and stream.is_held:
                    held[stream.id] = stream  # behind the others

    def cut(self, stream_id: int, code: int) -> None:
        """Tell the peer that the stream is over; what still comes of it is not looked at."""
        self.write(frames.rst_stream(stream_id, code))
        self._cut[stream_id] = None
        if len(self._cut) > _MAX_CUT:
            del self._cut[next(iter(self._cut))]

    def was_cut(self, stream_id: int) -> bool:
        return stream_id in self._cut

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        self.streams.pop(stream.id, None)
        self._held.pop(stream.id, None)

    def fail(self, code: int, message: str) -> None:
        """End the connection, and say why."""
        log.warning("a peer broke the protocol", action="http2_failed", code=code, error=message)
        self.write(frames.goaway(self.last_stream_id, code, message.encode()[:200]))
        self.finish()

    def finish(self) -> None:
        """Close, so that the peer can read to the end.

        To close a socket with something unread in it resets the connection, and what the peer has not read yet is lost
        to it: this side ends first, and waits for the peer to do so, but not for long.
        """
        if self.is_finished:
            return
        self.is_finished = True
        if not self.transport.is_closing():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)


_KINDS = (
    Connection._data,
    Connection._headers,
    Connection._priority,
    Connection._rst_stream,
    Connection._settings,
    Connection._push_promise,
    Connection._ping,
    Connection._goaway,
    Connection._window_update,
    Connection._continuation,
)
_OFTEN = {kind: _KINDS[kind] for kind in (frames.DATA, frames.HEADERS, frames.WINDOW_UPDATE)}
"""These come with every call; once the settings are there, and no header block is open, nothing need be asked first."""
