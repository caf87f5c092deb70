"""One call at a server: its handler is found and run, and what it says becomes frames."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from phantom_platform.http2 import frames
from phantom_platform.http2.context import OK, CallContext
from phantom_platform.http2.headers import literal
from phantom_platform.http2.requests import TOO_LARGE, Metadata, RequestHead, metadata_block, percent_encoded
from phantom_platform.http2.streams import MessageError, Stream
from phantom_platform.telemetry import logs

if TYPE_CHECKING:
    from phantom_platform.http2.server import ServerConnection

log = logs.get(__name__)

_CANCELLED, _UNKNOWN, _LATE, _EXHAUSTED, _UNIMPLEMENTED, _INTERNAL = 1, 2, 4, 8, 12, 13
_STATUS_200, _STATUS_415 = b"\x88", b"\x08\x03415"
_HEAD = ((b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,deflate,gzip"))
_ENDED_OK = ((b"grpc-status", b"0"),)
_DETAILS = "grpc-status-details-bin"
_MAX_FOUND = 1024
# A stream with a longer deadline than this is not ended by it.
_MAX_TIMER_S = 1e6


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each call."""

    max_message: int


@dataclass
class Handlers:
    """What the server was given, and what was found in it by path."""

    generic: list[grpc.GenericRpcHandler] = field(default_factory=list)
    _found: dict[str, Any] = field(default_factory=dict)

    def find(self, head: RequestHead) -> Any:
        """The method's handler; None where there is none."""
        found = self._found.get(head.path)
        if found is None:
            details = _Details(head.path, head.metadata)
            for each in self.generic:
                found = each.service(details)
                if found is not None:
                    if len(self._found) < _MAX_FOUND:
                        self._found[head.path] = found
                    break
        return found


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    method: str
    invocation_metadata: Any


class ServerStream(Stream):
    """A call."""

    __slots__ = (
        "_context",
        "_handler",
        "_handlers",
        "_head_sent",
        "_reader",
        "_task",
        "_timer",
        "arrived",
        "head",
        "is_reset",
        "is_unary_response",
    )
    connection: ServerConnection

    def __init__(
        self,
        connection: ServerConnection,
        stream_id: int,
        head: RequestHead,
        handlers: Handlers,
        limits: Limits,
    ) -> None:
        super().__init__(connection, stream_id, connection.stream_credit, limits.max_message)
        self.head = head
        self.encoding = head.encoding
        self.arrived = connection.loop.time()
        self.is_reset = False
        self.is_unary_response = True
        self._handlers = handlers
        self._handler: Any = None
        self._context = CallContext(self)
        self._head_sent = False
        self._task: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- from the connection -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The head is here. A call that streams requests begins now, another with its message."""
        head = self.head
        if not head.is_grpc:
            self.connection.write(_refusal_415(self))
            self._closed()
            return
        if head is TOO_LARGE:
            self._refuse(_EXHAUSTED, "the request's metadata is larger than is taken", "metadata_too_large")
            return
        if head.bad:
            self._refuse(_INTERNAL, f"the header {head.bad[:80]!r} is malformed", "malformed_header")
            return
        self._handler = handler = self._handlers.find(head)
        if handler is None:
            self._refuse(_UNIMPLEMENTED, f"no method {head.path[:200]!r} here", "unknown_method")
            return
        self.is_unary_response = not handler.response_streaming
        if handler.request_streaming:
            self._start_streaming(self._requests())

    def message_received(self) -> None:
        if self._handler.request_streaming:
            self._wake()
        elif len(self.messages) > 1:
            self._refuse(_INTERNAL, "a unary request has more than one message", "too_many_messages")

    def ended(self) -> None:
        handler = self._handler
        if handler.request_streaming:
            self._wake()
        elif not self.messages:
            self._refuse(_INTERNAL, "a unary request has no message", "no_message")
        elif handler.response_streaming:
            self._start_streaming(self.messages.popleft())
        else:
            self._task = self.connection.loop.create_task(self._run_unary(self.messages.popleft()))

    def failed(self, error: MessageError) -> None:
        self._cancel()
        self._refuse(error.status, str(error), error.reason)
        self._wake()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The handler's."""
        return self._task

    def reset(self, code: int) -> None:
        self.is_reset = self.is_remote_closed = self.is_local_closed = True
        self.drained()
        self._wake()
        self._cancel()

    def _cancel(self) -> None:
        """End the handler; it may not even have begun, and then does nothing at its end."""
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    # -- running handlers ----------------------------------------------------------------------------------------

    async def _run_unary(self, message: bytes) -> None:
        handler, context = self._handler, self._context
        try:
            if handler.request_deserializer is not None:
                message = self._parsed(message)
            answer = await handler.unary_unary(message, context)
            if handler.response_serializer is not None:
                answer = handler.response_serializer(answer)
            self._answer(answer)
        except Exception as error:
            self._end(error)
        except asyncio.CancelledError:
            self._cancelled()
            raise
        finally:
            if context.callbacks:
                context.finish()

    def _start_streaming(self, request: Any) -> None:
        """What is asked: a message, or an iterator of them. A deadline ends the call, as its handler has no end."""
        loop, timeout_s = self.connection.loop, self.head.timeout_s
        self._task = loop.create_task(self._run_streaming(request))
        if timeout_s is not None and timeout_s < _MAX_TIMER_S:
            self._timer = loop.call_later(timeout_s, self._expired)

    async def _run_streaming(self, request: Any) -> None:
        try:
            await self._stream_answers(request)
        except Exception as error:
            self._end(error)
        except asyncio.CancelledError:
            self._cancelled()
            raise
        finally:
            if self._timer is not None and not self.is_held:
                self._timer.cancel()
            self._context.finish()

    async def _stream_answers(self, request: Any) -> None:
        """A handler's answers: what it yields, what it writes to its context, or the one it returns."""
        handler, context = self._handler, self._context
        if not handler.response_streaming:
            answer = await handler.stream_unary(request, context)
            self._answer(self._serialized(answer))
            return
        if handler.request_streaming:
            answers = handler.stream_stream(request, context)
        else:
            answers = handler.unary_stream(self._parsed(request), context)
        if hasattr(answers, "__aiter__"):
            async for each in answers:
                await self.write(each)
        else:
            await answers
        self._end(None)

    async def _requests(self) -> Any:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def _expired(self) -> None:
        """The deadline of a streaming call has passed."""
        if self._task is not None:
            self._task.cancel()
        if self.is_held:  # its client takes nothing: a status would not reach it either
            self.connection.cut(self.id, frames.CANCEL)
            self.reset(frames.CANCEL)
            self.connection.forget(self)
        else:
            self._context.take_initial()
            self._finish(_LATE, "the deadline has passed", ())
            self._wake()

    def _cancelled(self) -> None:
        """A handler ended as cancelled, which its client may not know of."""
        self._context.take_initial()
        self._finish(_CANCELLED, "the handler was cancelled", ())

    def _parsed(self, message: bytes) -> Any:
        parse = self._handler.request_deserializer
        if parse is None:
            return message
        try:
            return parse(message)
        except Exception as error:
            self._refuse(_INTERNAL, f"the request cannot be read: {error}", "malformed_message")
            raise grpc.aio.AbortError from error

    def _serialized(self, answer: Any) -> bytes:
        serialize = self._handler.response_serializer
        return answer if serialize is None else serialize(answer)  # type: ignore[no-any-return]

    # -- reading and writing -------------------------------------------------------------------------------------

    async def read(self) -> Any:
        while not self.messages:
            if self.is_local_closed:
                raise asyncio.CancelledError
            if self.is_remote_closed:
                return grpc.aio.EOF
            if self._reader is not None and not self._reader.done():
                raise asyncio.InvalidStateError("another read of this call is under way")
            self._reader = self.connection.loop.create_future()
            await self._reader
        message = self.messages.popleft()
        if not self.messages:
            self.give_credit()
        return self._parsed(message)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def write(self, message: Any) -> None:
        """Returns when the message, and what was written before it, is on its way."""
        if self.is_local_closed or self.trailers is not None:
            raise asyncio.InvalidStateError("the call has ended")
        message = _as_bytes(self._serialized(message))
        self.send(self._take_head(), message)
        if self.is_held:
            await self.flushed()

    def send_head(self) -> None:
        """Initial metadata, before there is a message."""
        if head := self._take_head():
            self.connection.write(head)

    def _take_head(self) -> bytes:
        """The frame of response headers; nothing where it is out."""
        if self._head_sent:
            return b""
        block = metadata_block(self._context.take_initial())  # may raise: before the table is counted on
        self._head_sent = True
        return frames.header_frames(self.id, self._head_block() + block, 0, self.connection.max_frame)

    def _head_block(self) -> bytes:
        return self.connection.encoder.block(_STATUS_200, _HEAD)

    def _answer(self, message: bytes) -> None:
        """The one answer; with another status than OK, which the handler may have set, it is not sent."""
        if self.is_local_closed:
            return
        code, _, trailing = self._context.ending()
        if code:
            self._end(None)
            return
        message = _as_bytes(message)
        if trailing:
            metadata_block(trailing)  # may raise: before the answer is sent
            self.send(self._take_head(), message)
            self._end(None)
        else:
            self.send(self._take_head(), message, self._ok_trailers)

    def _ok_trailers(self) -> bytes:
        block = self.connection.encoder.block(b"", _ENDED_OK)
        return frames.header_frames(self.id, block, frames.END_STREAM, self.connection.max_frame)

    def _end(self, error: Exception | None) -> None:
        """The handler has returned, or raised."""
        try:
            if error is None or isinstance(error, grpc.aio.AbortError):
                self._finish(*self._context.ending())
                return
        except (TypeError, ValueError, AttributeError) as wrong:  # metadata that cannot be sent
            error = wrong
        if self.is_local_closed:
            return
        log.error("a handler failed", action="call_failed", method=self.head.path, exc_info=error)
        self._context.take_initial()
        self._finish(_UNKNOWN, f"unexpected {type(error).__name__}", ())

    def _refuse(self, code: int, message: str, reason: str) -> None:
        """End a call that no handler saw, or that broke inside one."""
        self._context.take_initial()
        status = status_pb2.Status(code=code, message=message)
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="phantom"))
        self._finish(code, message, ((_DETAILS, status.SerializeToString()),))

    def _finish(self, code: int, details: str, trailing: Metadata) -> None:
        """Send what ends the call. Raises what `metadata_block` raises, before anything is sent."""
        if self.is_local_closed or self.trailers is not None:
            return
        fields = literal(b"grpc-message", percent_encoded(details)) if details else b""
        fields += metadata_block(trailing)
        # Initial metadata has a frame of its own; without any, trailers alone carry what a head would.
        if self._context.has_initial and (head := self._take_head()):
            self.connection.write(head)
        self.end(lambda: self._trailers(code, fields))

    def _trailers(self, code: int, fields: bytes) -> bytes:
        begun = b""
        if not self._head_sent:
            self._head_sent = True
            begun = self._head_block()
        encoder = self.connection.encoder
        status = encoder.block(b"", _ENDED_OK if code == OK else ())
        if code != OK:
            status += literal(b"grpc-status", b"%d" % code)
        block = begun + status + fields
        return frames.header_frames(self.id, block, frames.END_STREAM, self.connection.max_frame)


def _as_bytes(message: Any) -> bytes:
    if isinstance(message, bytes):
        return message
    if isinstance(message, bytearray | memoryview):
        return bytes(message)
    raise TypeError(f"a handler answered with {type(message).__name__}, which is not bytes")


def _refusal_415(stream: ServerStream) -> bytes:
    """No gRPC: an HTTP status, as its specification asks."""
    block = stream.connection.encoder.start() + _STATUS_415
    return frames.header_frames(stream.id, block, frames.END_STREAM, stream.connection.max_frame)
