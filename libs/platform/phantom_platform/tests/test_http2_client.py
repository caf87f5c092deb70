"""Our client, `open_stream`, against the grpc library's server, servers of ours, and peers that misbehave."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import textwrap
import time

import grpc
import pytest

from phantom_platform.http2 import frames
from phantom_platform.http2.client import ClientCall, Ended, Keepalive, _ClientConnection, open_stream
from phantom_platform.http2.headers import literal
from phantom_platform.http2.server import ServerConnection
from phantom_platform.http2.streams import framed
from phantom_platform.tests.http2_peers import MIB, SERVICE, echo_all, path, serving

LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Inbox:
    """What `on_message` is given."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()

    def __call__(self, message: bytes) -> None:
        self.messages.put_nowait(message)

    async def get(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.messages.get()


async def opened(port: int, method: str = "All", **options) -> tuple[ClientCall, Inbox]:
    inbox = Inbox()
    options.setdefault("max_message", 64 * MIB)
    return await open_stream(f"127.0.0.1:{port}", path(method), inbox, **options), inbox


async def ending(call: ClientCall) -> Ended:
    async with asyncio.timeout(20):
        return await call.ended_with


async def abort(requests, context):
    async for _ in requests:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "zu groß, 100 %")
    yield b""


async def leave(requests, context):
    async for each in requests:
        yield each
        return


@pytest.fixture
async def theirs():
    server = grpc.aio.server(options=LARGE)
    streams = grpc.stream_stream_rpc_method_handler
    handlers = {"All": echo_all, "Abort": streams(abort), "Leave": streams(leave)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.fixture
async def ours():
    async with serving(All=echo_all) as port:
        yield port


@pytest.fixture(params=["theirs", "ours"])
def port(request):
    return request.getfixturevalue(request.param)


async def test_messages_come_back_in_order(port):
    call, inbox = await opened(port)
    for at in range(2000):
        call.write_nowait(b"%d" % at)
    assert [await inbox.get() for _ in range(2000)] == [b"%d" % at for at in range(2000)]
    call.cancel()
    assert (await ending(call)).code is grpc.StatusCode.CANCELLED
    call.write_nowait(b"nobody is told")
    await asyncio.wait_for(call.write(b"nor here"), 5)


@pytest.mark.parametrize("size", [0, 16_379, 65_531, MIB, 20 * MIB, 63 * MIB])
async def test_messages_of_every_size_go_both_ways(port, size):
    call, inbox = await opened(port)
    message = (b"abcdefg" * (size // 7 + 1))[:size]
    await asyncio.wait_for(call.write(message), 30)
    assert await inbox.get() == message
    call.cancel()


async def test_two_full_sides_do_not_wait_for_each_other(port):
    """Were both to stop reading until they can write, neither would go on. Small buffers of TCP make both full."""
    call, inbox = await opened(port)
    for each in _sockets_between(call):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    for _ in range(5):
        call.write_nowait(bytes(MIB))
    for _ in range(200):
        call.write_nowait(bytes(10_000))
    sizes = [len(await inbox.get()) for _ in range(205)]
    assert sizes == [MIB] * 5 + [10_000] * 200
    call.cancel()


def _sockets_between(call: ClientCall) -> list:
    """The client's, and that of a server of ours."""
    name = call.connection.transport.get_extra_info("sockname")
    servers = [each for each in gc.get_objects() if isinstance(each, ServerConnection)]
    transports = [each.transport for each in servers if each.transport.get_extra_info("peername") == name]
    return [each.get_extra_info("socket") for each in (call.connection.transport, *transports)]


async def test_many_writers_wait_for_their_own_and_all_go_on(port):
    call, inbox = await opened(port)
    writers = [asyncio.create_task(call.write(bytes(500_000))) for _ in range(40)]
    await asyncio.sleep(0)
    writers[20].cancel()
    await asyncio.wait_for(asyncio.wait(writers), 20)
    assert sum(each.cancelled() for each in writers) <= 1
    for _ in range(40):
        assert len(await inbox.get()) == 500_000
    call.cancel()


@pytest.mark.parametrize(
    ("method", "ended"),
    [
        ("Abort", Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, "zu groß, 100 %")),
        ("Leave", Ended(grpc.StatusCode.OK, "")),
    ],
)
async def test_the_server_says_how_the_call_ended(theirs, method, ended):
    call, _ = await opened(theirs, method)
    await call.write(b"x")
    assert await ending(call) == ended


async def test_a_method_that_is_not_served_ends_the_call(port):
    call, _ = await opened(port, "Nothing")
    assert (await ending(call)).code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_above_the_limit_ends_the_call(port):
    call, inbox = await opened(port, max_message=MIB)
    await call.write(bytes(MIB))
    assert len(await inbox.get()) == MIB
    await call.write(bytes(MIB + 1))
    ended = await ending(call)
    assert ended.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MIB) in ended.details


async def test_nobody_listens():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            await opened(bound.getsockname()[1])


# -- servers that die ------------------------------------------------------------------------------------------------

SERVER = textwrap.dedent(
    """
    import asyncio, grpc
    from phantom_platform.tests.http2_peers import SERVICE, echo_all

    async def main():
        server = grpc.aio.server()
        handlers = {"All": echo_all}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())
    """
)


@pytest.fixture
async def process():
    """The grpc library's server in another process, and its port."""
    made = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    assert made.stdout is not None
    yield made, int(await asyncio.wait_for(made.stdout.readline(), 30))
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.pid, signal.SIGCONT)
        made.kill()
    await made.wait()


async def test_a_server_that_is_killed_ends_its_calls(process):
    made, port = process
    call, inbox = await opened(port)
    await call.write(b"x")
    assert await inbox.get() == b"x"
    made.kill()
    ended = await ending(call)
    assert (ended.code, ended.details) == (grpc.StatusCode.UNAVAILABLE, "the connection was lost")


async def test_a_server_that_stands_still_is_given_up_within_the_rule(process):
    made, port = process
    call, inbox = await opened(port, keepalive=Keepalive(1, 1))
    await call.write(b"x")
    assert await inbox.get() == b"x"
    await asyncio.sleep(2.5)  # longer than the rule: it answers pings
    assert not call.ended_with.done()
    os.kill(made.pid, signal.SIGSTOP)
    began = time.monotonic()
    waiting = asyncio.create_task(call.write(bytes(10 * MIB)))  # more than there is room for
    ended = await ending(call)
    assert ended.code is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began < 6
    await asyncio.wait_for(waiting, 5)


async def test_a_client_that_stood_still_itself_does_not_give_its_server_up(process):
    _, port = process
    call, inbox = await opened(port, keepalive=Keepalive(0.2, 0.2))
    await call.write(b"x")
    assert await inbox.get() == b"x"
    await asyncio.sleep(0.25)  # pinged
    time.sleep(1)  # noqa: ASYNC251 - that is what is tested
    await call.write(b"y")
    assert await inbox.get() == b"y"
    call.cancel()


# -- servers that misbehave ------------------------------------------------------------------------------------------

OK_HEAD = b"\x88" + literal(b"content-type", b"application/grpc")


def head_frame(block: bytes, flags: int = frames.END_HEADERS) -> bytes:
    return frames.head(len(block), frames.HEADERS, flags, 1) + block


def data_frame(data: bytes, flags: int = 0) -> bytes:
    return frames.head(len(data), frames.DATA, flags, 1) + data


LAST = frames.END_HEADERS | frames.END_STREAM
C = grpc.StatusCode


@pytest.mark.parametrize(
    ("said", "code", "details"),
    [
        (head_frame(OK_HEAD + literal(b"grpc-status", b"7"), LAST), C.PERMISSION_DENIED, ""),
        (head_frame(OK_HEAD + literal(b"grpc-status", b"99"), LAST), C.UNKNOWN, ""),
        (head_frame(OK_HEAD + literal(b"grpc-status", b"9" * 6000), LAST), C.UNKNOWN, ""),
        (head_frame(OK_HEAD + literal(b"grpc-status", b"\xb2"), LAST), C.UNKNOWN, ""),
        (head_frame(OK_HEAD, LAST), C.UNKNOWN, ""),
        (head_frame(literal(b":status", b"503"), LAST), C.UNAVAILABLE, "503"),
        (head_frame(literal(b":status", b"\xff"), LAST), C.UNKNOWN, "HTTP status"),
        (head_frame(OK_HEAD) + data_frame(framed(b"x"), frames.END_STREAM), C.INTERNAL, "without a status"),
        (head_frame(OK_HEAD) + data_frame(b"\0\0", frames.END_STREAM), C.INTERNAL, "inside a message"),
        (head_frame(OK_HEAD) + data_frame(b"\1\0\0\0\1x"), C.INTERNAL, "compressed"),
        (frames.rst_stream(1, frames.REFUSED_STREAM), C.UNAVAILABLE, "code 7"),
        (frames.goaway(0, frames.NO_ERROR), C.UNAVAILABLE, "code 0"),
        (head_frame(OK_HEAD + literal(b"x", b"y" * 17_000)[:16_000]), C.UNAVAILABLE, "lost"),
        (head_frame(b"\xff\xff\xff\xff\xff\xff"), C.UNAVAILABLE, "lost"),
        (frames.head(4, frames.PUSH_PROMISE, 4, 1) + bytes(4), C.UNAVAILABLE, "lost"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", C.UNAVAILABLE, "lost"),
        (b"", C.UNAVAILABLE, "lost"),
    ],
)
async def test_whatever_a_server_says_the_call_ends(said, code, details):
    async def say(reader, writer) -> None:
        await reader.readexactly(len(frames.PREFACE))
        greeting = b"" if said.startswith(b"HTTP") else frames.settings({})
        writer.write(greeting + said)
        if not said:
            writer.close()
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        call, _ = await opened(server.sockets[0].getsockname()[1])
        ended = await ending(call)
        assert ended.code is code
        assert details in ended.details


@pytest.mark.parametrize("said", [b"", frames.settings({}) + frames.goaway(0, frames.NO_ERROR)])
async def test_a_server_that_leaves_before_the_call_begins_ends_it(said):
    async def leave(reader, writer) -> None:
        writer.write(said)
        writer.close() if not said else None
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(leave, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _ClientConnection(lambda _: None, MIB, Keepalive()), "127.0.0.1", port
        )
        ended = await ending(connection._call)
        call = connection.begin(path("All"), "there")
        assert await ending(call) is ended
        assert ended.code is grpc.StatusCode.UNAVAILABLE


async def test_a_graceful_goodbye_lets_the_call_go_on():
    async with serving(All=echo_all) as port:
        call, inbox = await opened(port)
        call.connection.goaway_received(frames.MAX_WINDOW, frames.NO_ERROR)
        await call.write(b"x")
        assert await inbox.get() == b"x"
        call.cancel()
