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
from phantom_platform.http2.headers import HeaderDecoder
from phantom_platform.http2.requests import RequestHead, read_request

BACKLOG = 1024
MAX_CONCURRENT_STREAMS = 10_000


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
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        made: socket.socket | None = None
        try:
            family, kind, proto, _, where = socket.getaddrinfo(
                host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            made = socket.socket(family, kind, proto)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._reuse_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(where)
            made.listen(BACKLOG)  # here, not at the start: a second server is refused now
        except OSError as error:
            if made is not None:
                made.close()
            raise RuntimeError(f"cannot listen on {address}: {error.strerror}") from error
        made.setblocking(False)
        self._sockets.append(made)
        return int(made.getsockname()[1])

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
        for each in list(self._connections):
            each.transport.abort()
        await asyncio.gather(*(each.gone.wait() for each in connections))
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


class ServerConnection(Connection):
    """One client's connection."""

    settings: ClassVar[dict[int, int]] = {
        frames.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
        frames.MAX_HEADER_LIST_SIZE: 16 * 1024,
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
            self.transport.close()

    # -- calls ----------------------------------------------------------------------------------------------------

    def headers_received(self, stream_id: int, block: bytes, is_last: bool) -> None:
        head = self._decoder.decode(block)
        if stream_id <= self.last_stream_id:
            self._more_headers(stream_id, is_last)
            return
        if not stream_id & 1:
            raise ConnectionError_(frames.PROTOCOL_ERROR, "a client's stream has an even id")
        if not self._takes_streams:
            return  # above the last stream of our GOAWAY: the client opens it elsewhere
        self.last_stream_id = stream_id
        if head is None:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR)
        if len(self.streams) >= MAX_CONCURRENT_STREAMS:
            raise StreamError(stream_id, frames.REFUSED_STREAM)
        stream = ServerStream(self, stream_id, head, self._handlers, self._limits)
        self.streams[stream_id] = stream
        stream.begin()
        if is_last and not stream.is_local_closed:
            stream.data_received(b"", True)

    def _more_headers(self, stream_id: int, is_last: bool) -> None:
        """Trailers of a request, which say nothing here."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.is_remote_closed:
            raise ConnectionError_(frames.STREAM_CLOSED, "HEADERS on a stream that is closed")
        if not is_last:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR)
        stream.data_received(b"", True)


_LEAVING = b"go away!"
