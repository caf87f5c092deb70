"""A gRPC server that stands in for `grpc.aio.server`: the same handlers, an event loop's protocol underneath.

It takes what the gateway and the model server use: insecure ports, generic and registered handlers of all four kinds,
messages compressed with gzip or deflate, deadlines for handlers to read, cancellation, graceful stop. It refuses
what it has not: TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import Any, ClassVar

import grpc

from phantom_platform.http2 import frames
from phantom_platform.http2.calls import Handlers, Limits, ServerStream
from phantom_platform.http2.connection import Connection
from phantom_platform.http2.frames import ConnectionError_, StreamError
from phantom_platform.http2.headers import MAX_HEADER_BYTES, HeaderDecoder, TooLargeError
from phantom_platform.http2.requests import TOO_LARGE, TRAILERS, RequestHead, read_request

BACKLOG = 1024
MAX_CONCURRENT_STREAMS = 10_000
# How long handlers that were cancelled at the stop may take to end.
_UNWINDING_S = 1.0


class Server(grpc.aio.Server):
    """`max_message` bounds requests, in bytes."""

    def __init__(self, *, max_message: int = 4 * 1024 * 1024, reuse_port: bool = False) -> None:
        self._limits = Limits(max_message)
        self._reuse_port = reuse_port
        self._handlers = Handlers()
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.Server] = []
        self._connections: set[ServerConnection] = set()
        self._stopped = asyncio.Event()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._handlers.generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """What generated code adds beside a generic handler of the same methods: nothing is missing without it."""

    def add_insecure_port(self, address: str) -> int:
        """Bind; the port, where the address asks for any with 0. Raises RuntimeError where it cannot be had."""
        host, _, port_text = address.rpartition(":")
        if not port_text.isdigit() or int(port_text) > 65_535:
            raise RuntimeError(f"cannot listen on {address}: an address is host:port")
        made: list[socket.socket] = []
        port = int(port_text)
        try:
            for family, where in _addresses(host.strip("[]"), port):
                made.append(self._bound(family, (where[0], port, *where[2:])))
                port = made[0].getsockname()[1]  # every address of a name has the same
        except OSError as error:
            for each in made:
                each.close()
            raise RuntimeError(f"cannot listen on {address}: {error.strerror}") from error
        self._sockets += made
        return port

    def _bound(self, family: int, where: tuple[Any, ...]) -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(where)
            made.listen(BACKLOG)  # here, not at the start: a second server is refused now
        except OSError:
            made.close()
            raise
        made.setblocking(False)
        return made

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        raise NotImplementedError("this server speaks plaintext only; put a TLS proxy before it")

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            self._listeners.append(await loop.create_server(self._accept, sock=each, backlog=BACKLOG))

    def _accept(self) -> ServerConnection:
        return ServerConnection(self._handlers, self._limits, self._connections)

    async def stop(self, grace: float | None) -> None:
        """No new calls; those under way may end within `grace` seconds (None: not at all), then they are cancelled."""
        for listener in self._listeners:
            listener.close()
        connections = list(self._connections)
        for each in connections:
            each.shut_down()
        if grace and connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await asyncio.gather(*(each.gone.wait() for each in connections))
        connections = list(self._connections)
        handlers = [task for each in connections for task in each.handlers()]
        for each in connections:
            each.transport.abort()
        await asyncio.gather(*(each.gone.wait() for each in connections))
        if handlers:
            await asyncio.wait(handlers, timeout=_UNWINDING_S)
        for made in self._sockets:
            made.close()
        self._stopped.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """True where it had not stopped within the time."""
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Family and address of each that the name has."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), where) for family, _, _, _, where in found))


class ServerConnection(Connection):
    """One client's connection."""

    settings: ClassVar[dict[int, int]] = {
        frames.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
        frames.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
    }

    def __init__(self, handlers: Handlers, limits: Limits, connections: set[ServerConnection]) -> None:
        super().__init__()
        self.gone = asyncio.Event()
        self._handlers = handlers
        self._limits = limits
        self._connections = connections
        self._decoder: HeaderDecoder[RequestHead | None] = HeaderDecoder(read_request)
        self._awaited = frames.PREFACE
        # Told to go: no further stream is taken once the client has been seen to know.
        self._is_leaving = False
        self._takes_streams = True

    # -- life ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._awaited:
            data = self._prefaced(data)
        if data:
            super().data_received(data)

    def _prefaced(self, data: bytes) -> bytes:
        """What follows the preface; the connection ends where it is another one."""
        part = data[: len(self._awaited)]
        if not self._awaited.startswith(part):
            self.fail(
                frames.PROTOCOL_ERROR, "this port speaks gRPC (HTTP/2 without TLS), with prior knowledge"
            )
            return b""
        self._awaited = self._awaited[len(part) :]
        return data[len(part) :]

    def closed(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self.gone.set()

    def shut_down(self) -> None:
        """Say GOAWAY twice: once the client has heard the first, again with the last stream that is served."""
        if self._is_leaving:
            return
        self._is_leaving = True
        if self._awaited:
            self.transport.close()
            return
        self.write(frames.goaway(frames.MAX_WINDOW, frames.NO_ERROR) + frames.ping(_LEAVING))

    def pong_received(self, payload: bytes) -> None:
        if payload == _LEAVING and self._is_leaving:
            self._takes_streams = False
            self.write(frames.goaway(self.last_stream_id, frames.NO_ERROR))
            self._close_if_idle()

    def forget(self, stream: Any) -> None:
        super().forget(stream)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self._takes_streams and not self.streams:
            self.finish()

    def handlers(self) -> list[asyncio.Task[None]]:
        """Those under way."""
        tasks = (each.task for each in self.streams.values() if isinstance(each, ServerStream))
        return [task for task in tasks if task is not None]

    # -- calls ----------------------------------------------------------------------------------------------------

    def headers_received(self, stream_id: int, block: bytes, is_last: bool) -> None:
        try:
            head = self._decoder.decode(block)
        except TooLargeError:
            head = TOO_LARGE
        if stream_id <= self.last_stream_id:
            self._more_headers(stream_id, head, is_last)
            return
        if not stream_id & 1:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "a client's stream has an even id")
        self.last_stream_id = stream_id
        if head is None or head is TRAILERS:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR)
        if not self._takes_streams or len(self.streams) >= MAX_CONCURRENT_STREAMS:
            raise StreamError(stream_id, frames.REFUSED_STREAM)  # the client may ask again elsewhere
        stream = ServerStream(self, stream_id, head, self._handlers, self._limits)
        self.streams[stream_id] = stream
        if head.content_length is not None:
            stream.body_left = head.content_length
        stream.is_remote_closed = is_last
        stream.begin()
        if is_last and not stream.is_local_closed:
            stream.data_received(b"", True)

    def _more_headers(self, stream_id: int, head: RequestHead | None, is_last: bool) -> None:
        """Trailers of a request, which say nothing here."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_remote_closed:
            if self.was_cut(stream_id):
                return
            raise ConnectionError_(frames.STREAM_CLOSED, "HEADERS on a stream that is closed")
        if not is_last or head is not TRAILERS:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR)
        stream.data_received(b"", True)


_LEAVING = b"go away!"
