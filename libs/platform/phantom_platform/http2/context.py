"""What a handler is told of its call, and says with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from phantom_platform.http2.requests import Block, Metadata

if TYPE_CHECKING:
    from phantom_platform.http2.calls import ServerStream

OK = 0


class CallContext:
    """What a handler is told, and says with; as `grpc.aio.ServicerContext`."""

    __slots__ = ("_code", "_details", "_initial", "_stream", "_trailing", "callbacks")

    def __init__(self, stream: ServerStream) -> None:
        self._stream = stream
        self._initial: Metadata | Block | None = None
        self._trailing: Metadata = ()
        self._code = OK
        self._details = ""
        self.callbacks: list[Callable[[Any], None]] = []

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
        """The client's address; `unknown` once it is gone."""
        name = self._stream.connection.transport.get_extra_info("peername")
        if not name:
            return "unknown"
        host, port = name[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def cancelled(self) -> bool:
        return self._stream.is_reset

    def done(self) -> bool:
        return self._stream.is_reset or self._stream.is_local_closed

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    # -- told ----------------------------------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message; EOF after the last. Ends as cancelled where the call is no more."""
        return await self._stream.read()

    async def write(self, message: Any) -> None:
        """Returns when the message is on its way. Raises InvalidStateError where the call has ended."""
        await self._stream.write(message)

    async def send_initial_metadata(self, metadata: Metadata | Block) -> None:
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
        if code is grpc.StatusCode.OK:
            raise ValueError("a call cannot be aborted with OK")
        self._code, self._details = code.value[0], details
        if trailing_metadata:
            self._trailing = trailing_metadata
        raise grpc.aio.AbortError("the handler ended the call")

    # -- for the stream ------------------------------------------------------------------------------------------

    @property
    def has_initial(self) -> bool:
        return bool(self._initial)

    def take_initial(self) -> Metadata | Block:
        initial, self._initial = self._initial, None
        return initial or ()

    def ending(self) -> tuple[int, str, Metadata]:
        return self._code, self._details, self._trailing

    def finish(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback(self)
