"""One stream of a connection: messages of gRPC in (length-prefixed, perhaps compressed) and out (flow-controlled)."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from phantom_platform.http2 import frames

if TYPE_CHECKING:
    from phantom_platform.http2.connection import Connection

PREFIX_BYTES = 5
COMPRESSIONS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
"""How zlib is told to read each `grpc-encoding`."""


class MessageError(Exception):
    """A message that cannot be taken, and the gRPC status code to say so with."""

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def framed(message: bytes) -> bytes:
    """A message as it goes into DATA, uncompressed."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


class Stream:
    """What both sides share. `credit` is what the peer may still send, `window` what may be sent to it."""

    __slots__ = (
        "_buffer",
        "_needed",
        "_outbox",
        "_writers",
        "body_left",
        "connection",
        "credit",
        "encoding",
        "id",
        "is_local_closed",
        "is_remote_closed",
        "max_message",
        "messages",
        "trailers",
        "window",
    )

    def __init__(self, connection: Connection, stream_id: int, credit: int, max_message: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.credit = credit
        self.window = connection.peer_stream_window
        self.encoding = b"identity"
        self.max_message = max_message
        self.is_local_closed = self.is_remote_closed = False
        # Whole messages that nobody has read yet.
        self.messages: deque[bytes] = deque()
        # What `content-length` leaves to come, where the peer has said one.
        self.body_left: int | None = None
        # Makes the frames that end the stream, once everything before them is out: a block of headers counts on the
        # table as it is when the block is sent, so it is not made sooner.
        self.trailers: Callable[[], bytes] | None = None
        self._outbox: deque[memoryview] = deque()
        self._writers: list[asyncio.Future[None]] = []
        # The beginning of a message, and how many bytes there must be before there can be a whole one.
        self._buffer = bytearray()
        self._needed = PREFIX_BYTES

    # -- for subclasses ------------------------------------------------------------------------------------------

    def message_received(self) -> None:
        """There is one more in `messages`."""

    def ended(self) -> None:
        """The peer has said its last."""

    def failed(self, error: MessageError) -> None:
        """The peer sent what cannot be taken."""

    def reset(self, code: int) -> None:
        """The stream was cut off, by the peer or with its connection."""

    # -- receiving -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes, is_last: bool) -> None:
        if self.body_left is not None:
            self._count(len(data), is_last)
        if is_last:
            self.is_remote_closed = True
        if (
            len(data) >= PREFIX_BYTES
            and len(data) == PREFIX_BYTES + int.from_bytes(data[1:5], "big")
            and not self._buffer
        ):
            self._take(data[0], data[PREFIX_BYTES:])
        elif data:
            self._gather(data)
        if is_last:
            if self._buffer:
                self.failed(MessageError(13, "the stream ended inside a message", "truncated_message"))
            elif not self.is_local_closed:
                self.ended()
        elif self.credit < self.connection.stream_credit // 2 and not self.messages:
            self.give_credit()

    def _count(self, length: int, is_last: bool) -> None:
        """A body is as long as its `content-length` says (RFC 9113 §8.1.1)."""
        assert self.body_left is not None
        self.body_left -= length
        if self.body_left < 0 or (is_last and self.body_left):
            raise frames.StreamError(self.id, frames.PROTOCOL_ERROR)

    def give_credit(self) -> None:
        """Let the peer send again as much as it could at first."""
        whole = self.connection.stream_credit
        if not self.is_remote_closed and self.credit < whole // 2:
            self.connection.write(frames.window_update(self.id, whole - self.credit))
            self.credit = whole

    def _gather(self, data: bytes) -> None:
        """A message in several pieces, or several in one."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._needed:
                return
        at = 0
        with memoryview(buffer or data) as whole:
            while len(whole) - at >= PREFIX_BYTES and not self.is_local_closed:
                begin = at + PREFIX_BYTES
                size = int.from_bytes(whole[at + 1 : begin], "big")
                if size > self.max_message:
                    self._refuse_size(size)
                elif len(whole) - begin < size:
                    self._needed = PREFIX_BYTES + size
                    break
                else:
                    at = begin + size
                    self._take(whole[at - size - PREFIX_BYTES], bytes(whole[begin:at]))
            else:
                self._needed = PREFIX_BYTES
        if self.is_local_closed:
            buffer.clear()
        elif buffer:
            del buffer[:at]
        else:
            buffer += data[at:]

    def _refuse_size(self, size: int) -> None:
        message = f"a message of {size} bytes is more than the {self.max_message} that are taken"
        self.failed(MessageError(8, message, "request_too_large"))

    def _take(self, flag: int, message: bytes) -> None:
        if flag:
            try:
                message = self._inflated(flag, message)
            except MessageError as error:
                self.failed(error)
                return
        elif len(message) > self.max_message:
            self._refuse_size(len(message))
            return
        self.messages.append(message)
        self.message_received()

    def _inflated(self, flag: int, data: bytes) -> bytes:
        bits = COMPRESSIONS.get(self.encoding)
        if flag != 1 or self.encoding == b"identity":
            raise MessageError(13, "a message is compressed, and not said how", "corrupt_message")
        if bits is None:
            said = self.encoding[:40].decode("ascii", "replace")
            raise MessageError(
                12,
                f"compression {said!r} is not taken; identity, deflate and gzip are",
                "unknown_compression",
            )
        inflater = zlib.decompressobj(bits)
        try:
            message = inflater.decompress(data, self.max_message + 1)
        except zlib.error as error:
            raise MessageError(13, f"a message does not decompress: {error}", "corrupt_message") from error
        if len(message) > self.max_message or inflater.unconsumed_tail:
            raise MessageError(
                8, f"a message decompresses to more than {self.max_message} bytes", "request_too_large"
            )
        if not inflater.eof:
            raise MessageError(13, "a compressed message is cut off", "corrupt_message")
        return message

    # -- sending -------------------------------------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        return bool(self._outbox) or self.trailers is not None

    def send(self, before: bytes, message: bytes, trailers: Callable[[], bytes] | None = None) -> None:
        """`before` (whole frames of headers), a message, and what ends the stream where that is known already."""
        connection, size = self.connection, PREFIX_BYTES + len(message)
        if (
            size <= self.window
            and size <= connection.window
            and size <= connection.max_frame
            and not self._outbox
            and connection.is_writable
        ):
            self.window -= size
            connection.window -= size
            head = frames.HEAD.pack(size >> 8, size & 0xFF, frames.DATA, 0, self.id)
            prefix = b"\x00" + len(message).to_bytes(4, "big")
            if trailers is None:
                connection.write(b"".join((before, head, prefix, message)))
            else:
                connection.write(b"".join((before, head, prefix, message, trailers())))
                self._closed()
            return
        if before:
            connection.write(before)
        self._outbox.append(memoryview(framed(message)))
        self.trailers = trailers
        connection.hold(self)

    async def flushed(self) -> None:
        """Returns when what was sent is on its way, or the stream closed."""
        while self.is_held and not self.is_local_closed:
            writer = self.connection.loop.create_future()
            self._writers.append(writer)
            await writer

    def drained(self) -> None:
        """Everything that was held back is out, or never will be."""
        for each in self._writers:
            if not each.done():
                each.set_result(None)
        self._writers.clear()

    def end(self, trailers: Callable[[], bytes]) -> None:
        """Close this side with these frames, after all that was sent before."""
        if self._outbox:
            self.trailers = trailers
        else:
            self.connection.write(trailers())
            self._closed()

    def send_held(self) -> bool:
        """One frame of what was held back; whether there was room for any."""
        connection = self.connection
        if not self._outbox:
            return False
        data = self._outbox[0]
        room = min(self.window, connection.window, connection.max_frame)
        if room <= 0:
            return False
        piece = data[:room]
        self.window -= len(piece)
        connection.window -= len(piece)
        connection.write(b"".join((frames.head(len(piece), frames.DATA, 0, self.id), piece)))
        if len(piece) < len(data):
            self._outbox[0] = data[room:]
            return True
        self._outbox.popleft()
        if not self._outbox:
            if self.trailers is not None:
                connection.write(self.trailers())
                self.trailers = None
                self._closed()
            self.drained()
        return True

    def _closed(self) -> None:
        """This side has said its last; where the peer has not, it is told to stop."""
        self.is_local_closed = True
        if not self.is_remote_closed:
            self.is_remote_closed = True
            self.connection.cut(self.id, frames.NO_ERROR)
        self.connection.forget(self)
