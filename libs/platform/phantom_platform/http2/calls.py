"""One call at a server: its handler is found and run, and what it says becomes frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from phantom_platform.http2 import frames
from phantom_platform.http2.headers import literal
from phantom_platform.http2.requests import RequestHead, percent_encoded, write_value
from phantom_platform.http2.streams import MessageError, Stream
from phantom_platform.telemetry import logs

if TYPE_CHECKING:
    from phantom_platform.http2.server import ServerConnection

log = logs.get(__name__)

_OK, _UNKNOWN, _INVALID, _EXHAUSTED, _UNIMPLEMENTED, _INTERNAL = 0, 2, 3, 8, 12, 13
_STATUS_200, _STATUS_415 = b"\x88", b"\x48\x03415"
_CONTENT_TYPE = (b"content-type", b"application/grpc")
_ACCEPTED = (b"grpc-accept-encoding", b"identity,deflate,gzip")
_STATUS_OK = (b"grpc-status", b"0")
_DETAILS = "grpc-status-details-bin"
_MAX_UNREAD = 64
Metadata = Iterable[tuple[str, str | bytes]]


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
                    self._found[head.path] = found
                    break
        return found


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    method: str
    invocation_metadata: Any


class CallContext:
    """What a handler is told, and says with; as `grpc.aio.ServicerContext`."""

    __slots__ = ("_callbacks", "_code", "_details", "_initial", "_stream", "_trailing")

    def __init__(self, stream: ServerStream) -> None:
        self._stream = stream
        self._initial: Metadata | None = None
        self._trailing: Metadata = ()
        self._code = _OK
        self._details = ""
        self._callbacks: list[Callable[[Any], None]] = []

    # -- asked ---------------------------------------------------------------------------------------------------

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._stream.head.metadata

    def time_remaining(self) -> float | None:
        """Seconds; None where the client gave no deadline."""
        stream = self._stream
        if stream.head.timeout_s is None:
            return None
        return max(0.0, stream.arrived + stream.head.timeout_s - stream.connection.loop.time())

    def peer(self) -> str:
        host, port = self._stream.connection.transport.get_extra_info("peername")[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def cancelled(self) -> bool:
        return self._stream.is_reset

    def done(self) -> bool:
        return self._stream.is_reset or self._stream.is_local_closed

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    # -- told ----------------------------------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message; EOF after the last."""
        return await self._stream.read()

    async def write(self, message: bytes) -> None:
        await self._stream.write(message)

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """It goes out with what comes next; at once where the call streams."""
        self._initial = metadata
        if not self._stream.is_unary_response:
            self._stream.send_head()

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code.value[0]

    def set_details(self, details: str) -> None:
        self._details = details

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with this status. Raises AbortError, which is to reach the server."""
        self._code, self._details = code.value[0], details
        if trailing_metadata:
            self._trailing = trailing_metadata
        raise grpc.aio.AbortError("the handler ended the call")

    # -- for the stream ------------------------------------------------------------------------------------------

    def take_initial(self) -> Metadata:
        initial, self._initial = self._initial, None
        return initial or ()

    def ending(self) -> tuple[int, str, Metadata]:
        return self._code, self._details, self._trailing

    def finish(self) -> None:
        for callback in self._callbacks:
            callback(self)


class ServerStream(Stream):
    """A call."""

    __slots__ = (
        "_context",
        "_drained",
        "_handler",
        "_handlers",
        "_head_sent",
        "_task",
        "_waiter",
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
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    # -- from the connection -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The head is here. A call that streams requests begins now, another with its message."""
        head = self.head
        if head.method != "POST" or not head.content_type.startswith("application/grpc"):
            self.connection.write(_refusal_415(self))
            self._closed()
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
            self._start(self._run_streaming())

    def message_received(self) -> None:
        handler = self._handler
        if handler is None:
            return
        if handler.request_streaming:
            self._wake()
        elif self._task is not None or len(self.messages) > 1:
            self._refuse(_INTERNAL, "a unary request has more than one message", "too_many_messages")

    def ended(self) -> None:
        if self._handler is None:
            return
        if self._handler.request_streaming:
            self._wake()
        elif not self.messages:
            self._refuse(_INTERNAL, "a unary request has no message", "no_message")
        elif self._handler.response_streaming:
            self._start(self._run_unary_stream(self.messages.popleft()))
        else:
            self._start(self._run_unary(self.messages.popleft()))

    def failed(self, error: MessageError) -> None:
        if self._task is not None:
            self._task.cancel()
        self._refuse(error.status, str(error), error.reason)

    def reset(self, code: int) -> None:
        self.is_reset = self.is_remote_closed = self.is_local_closed = True
        if self._task is not None:
            self._task.cancel()
        else:
            self._context.finish()

    def drained(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- running handlers ----------------------------------------------------------------------------------------

    def _start(self, run: Any) -> None:
        self._task = self.connection.loop.create_task(run)

    async def _run_unary(self, message: bytes) -> None:
        handler, context = self._handler, self._context
        try:
            if handler.request_deserializer is not None:
                message = handler.request_deserializer(message)
            answer = await handler.unary_unary(message, context)
            if handler.response_serializer is not None:
                answer = handler.response_serializer(answer)
        except Exception as error:
            self._end(error)
        else:
            self._answer(answer)
        finally:
            if context._callbacks:
                context.finish()

    async def _run_unary_stream(self, message: bytes) -> None:
        handler = self._handler
        request = handler.request_deserializer(message) if handler.request_deserializer else message
        await self._run_responses(handler.unary_stream(request, self._context))

    async def _run_streaming(self) -> None:
        handler = self._handler
        if not handler.response_streaming:
            self._refuse(_UNIMPLEMENTED, "client-streaming methods are not served here", "unknown_method")
            return
        await self._run_responses(handler.stream_stream(self._requests(), self._context))

    async def _requests(self) -> Any:
        parse = self._handler.request_deserializer
        while (message := await self.read()) is not grpc.aio.EOF:
            yield parse(message) if parse is not None else message

    async def _run_responses(self, responses: Any) -> None:
        """A handler's answers: what it yields, or what it writes to its context."""
        serialize = self._handler.response_serializer
        try:
            if hasattr(responses, "__aiter__"):
                async for each in responses:
                    await self.write(serialize(each) if serialize is not None else each)
            else:
                await responses
        except Exception as error:
            self._end(error)
        else:
            self._end(None)
        finally:
            self._context.finish()

    # -- reading and writing -------------------------------------------------------------------------------------

    async def read(self) -> Any:
        while not self.messages:
            if self.is_remote_closed:
                return grpc.aio.EOF
            self._waiter = self.connection.loop.create_future()
            await self._waiter
        message = self.messages.popleft()
        if not self.messages:
            self.give_credit()
        return message

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def write(self, message: bytes) -> None:
        """Returns when the message, and what was written before it, is on its way."""
        if self.is_local_closed:
            raise asyncio.InvalidStateError("the call has ended")
        self.send(self._take_head(), message)
        while self.is_held and not self.is_local_closed:
            self._drained = self.connection.loop.create_future()
            await self._drained

    def send_head(self) -> None:
        """Initial metadata, before there is a message."""
        if head := self._take_head():
            self.connection.write(head)

    def _take_head(self) -> bytes:
        """The frame of response headers; nothing where it is out."""
        if self._head_sent:
            return b""
        self._head_sent = True
        block = self._head_block() + _block(self._context.take_initial())
        return frames.header_frames(self.id, block, 0, self.connection.max_frame)

    def _head_block(self) -> bytes:
        encoder = self.connection.encoder
        return b"".join(
            (encoder.start(), _STATUS_200, encoder.repeated(*_CONTENT_TYPE), encoder.repeated(*_ACCEPTED))
        )

    def _answer(self, message: bytes) -> None:
        """The one answer of a unary call; status OK unless the handler has set another."""
        if self.is_local_closed:
            return
        code, details, trailing = self._context.ending()
        if code or trailing:
            self._finish(code, details, trailing)
            return
        head = self._take_head()
        encoder = self.connection.encoder
        block = encoder.start() + encoder.repeated(*_STATUS_OK)
        self.send(
            head, message, frames.header_frames(self.id, block, frames.END_STREAM, self.connection.max_frame)
        )

    def _end(self, error: Exception | None) -> None:
        """The handler has returned, or raised."""
        code, details, trailing = self._context.ending()
        if error is not None and not isinstance(error, grpc.aio.AbortError):
            log.error("a handler failed", action="call_failed", method=self.head.path, exc_info=error)
            code, details, trailing = _UNKNOWN, f"unexpected {type(error).__name__}", ()
        self._finish(code, details, trailing)

    def _refuse(self, code: int, message: str, reason: str) -> None:
        """End a call that no handler saw, or that broke inside one."""
        status = status_pb2.Status(code=code, message=message)
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="phantom"))
        self._finish(code, message, ((_DETAILS, status.SerializeToString()),))

    def _finish(self, code: int, details: str, trailing: Metadata) -> None:
        if self.is_local_closed:
            return
        encoder = self.connection.encoder
        parts = [encoder.start()]
        if not self._head_sent:  # trailers alone carry what a head would
            self._head_sent = True
            parts += [self._head_block(), _block(self._context.take_initial())]
        parts.append(literal(b"grpc-status", b"%d" % code) if code else encoder.repeated(*_STATUS_OK))
        if details:
            parts.append(literal(b"grpc-message", percent_encoded(details)))
        parts.append(_block(trailing))
        self.end(frames.header_frames(self.id, b"".join(parts), frames.END_STREAM, self.connection.max_frame))


def _block(metadata: Metadata) -> bytes:
    return b"".join([literal(name.encode(), write_value(name, value)) for name, value in metadata])


def _refusal_415(stream: ServerStream) -> bytes:
    """No gRPC: an HTTP status, as its specification asks."""
    block = stream.connection.encoder.start() + _STATUS_415
    return frames.header_frames(stream.id, block, frames.END_STREAM, stream.connection.max_frame)
