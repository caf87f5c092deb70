"""How a server of ours stops: what is under way ends, what comes too late goes elsewhere."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from phantom_platform.http2 import frames
from phantom_platform.http2.server import Server
from phantom_platform.tests.http2_peers import SERVICE, Peer, echo, path


class Gate:
    """A unary handler that answers once it may."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.may_end = asyncio.Event()
        self.cancelled = 0

    async def handler(self, body, context):
        self.begun.release()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return body


@asynccontextmanager
async def started(gate: Gate, port: int = 0):
    server = Server()
    methods = {"Gate": grpc.unary_unary_rpc_method_handler(gate.handler), "Echo": echo}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield server, port
    await server.stop(None)


async def test_calls_under_way_end_before_the_server_does():
    gate = Gate()
    async with started(gate) as (server, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [channel.unary_unary(path("Gate"))(b"%d" % at, timeout=20) for at in range(20)]
        for _ in calls:
            await gate.begun.acquire()
        stopping = asyncio.create_task(server.stop(20))
        assert await server.wait_for_termination(0.2) is True
        gate.may_end.set()
        assert await asyncio.gather(*calls) == [b"%d" % at for at in range(20)]
        await asyncio.wait_for(stopping, 5)
        assert await server.wait_for_termination(1) is False
        assert gate.cancelled == 0


@pytest.mark.parametrize("grace", [None, 0.2])
async def test_calls_that_outlast_the_grace_are_cancelled(grace):
    gate = Gate()
    async with started(gate) as (server, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(path("Gate"))(b"", timeout=20)
        await gate.begun.acquire()
        await asyncio.wait_for(server.stop(grace), 5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert gate.cancelled == 1


async def test_handlers_have_ended_when_the_server_has():
    ended = []

    async def slow_to_end(body, context):
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0.01)
            ended.append(context.cancelled())

    gate = Gate()
    gate.handler = slow_to_end
    async with started(gate) as (server, port), await Peer.connect(port) as peer:
        peer.ask(1, b"", "Gate")
        await peer.ping()
        await asyncio.wait_for(server.stop(None), 5)
        assert ended == [True]


async def test_idle_clients_do_not_hold_up_a_stop():
    async with started(Gate()) as (server, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary(path("Echo"))(b"x", timeout=10) == b"x"
        silent = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.wait_for(server.stop(30), 5)
        assert await silent[0].read() is not None
        silent[1].close()


async def test_no_call_is_lost_while_servers_are_replaced():
    """One port, a server after another; a client that calls all the time and is never failed."""
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
    gate = Gate()
    async with (
        started(gate) as (first, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        echoed, is_over = channel.unary_unary(path("Echo")), asyncio.Event()

        async def calling() -> int:
            count = 0
            while not is_over.is_set():
                assert await echoed(b"x", timeout=20, wait_for_ready=True) == b"x"
                count += 1
            return count

        callers = [asyncio.create_task(calling()) for _ in range(20)]
        await echoed(b"x", timeout=10)
        for _ in range(3):
            await first.stop(10)
            async with started(gate, port) as (second, _):
                for _ in range(50):
                    await echoed(b"x", timeout=20, wait_for_ready=True)
                await second.stop(10)
        async with started(gate, port):
            is_over.set()
            assert all(count > 0 for count in await asyncio.gather(*callers))


async def test_a_stream_that_comes_after_the_last_word_is_refused_for_another_try():
    gate = Gate()
    async with started(gate) as (server, port), await Peer.connect(port) as peer:
        peer.ask(1, b"", "Gate")
        await gate.begun.acquire()
        stopping = asyncio.create_task(server.stop(20))
        goaway = await peer.until(frames.GOAWAY)
        assert int.from_bytes(goaway.payload[:4], "big") == frames.MAX_WINDOW
        ping = await peer.until(frames.PING)
        peer.ask(3, b"still taken")
        assert (await peer.until(frames.HEADERS, 3)) is not None
        await peer.until(frames.HEADERS, 3)
        peer.send(frames.ping(ping.payload, frames.ACK))
        goaway = await peer.until(frames.GOAWAY)
        assert (int.from_bytes(goaway.payload[:4], "big"), goaway.code) == (3, frames.NO_ERROR)
        peer.ask(5, b"too late")
        reset = await peer.until(frames.RST_STREAM)
        assert (reset.stream_id, reset.code) == (5, frames.REFUSED_STREAM)
        gate.may_end.set()
        last = await peer.until(frames.HEADERS, 1)
        assert last is not None
        assert await peer.end() is None
        await asyncio.wait_for(stopping, 5)


async def test_a_server_that_never_started_stops():
    server = Server()
    server.add_insecure_port("127.0.0.1:0")
    await server.stop(1)
    await server.stop(1)
    assert await server.wait_for_termination(1) is False
