"""Whatever bytes come, a connection answers or ends: nothing is raised out of it, and nothing hangs."""

import asyncio
import gc
import random

import grpc
import hpack
import pytest
from structlog.testing import capture_logs

from phantom_platform.http2 import frames
from phantom_platform.http2.client import Keepalive, open_stream
from phantom_platform.http2.headers import literal
from phantom_platform.http2.streams import framed
from phantom_platform.tests.http2_peers import MIB, Peer, echo, echo_all, path, request_of, serving

CALLS = 40
METHODS = ("Echo", "All", "Never", "Raise", "Nothing")


async def never(requests, context):
    await asyncio.Event().wait()
    yield b""


async def raising(body, context):
    raise RuntimeError("on purpose")


@pytest.fixture
async def port():
    streams, unary = grpc.stream_stream_rpc_method_handler, grpc.unary_unary_rpc_method_handler
    handlers = {"Echo": echo, "All": echo_all, "Never": streams(never), "Raise": unary(raising)}
    async with serving(max_message=MIB, **handlers) as port:
        yield port


@pytest.fixture(autouse=True)
async def nothing_is_raised():
    """The loop is told of what is raised out of a protocol or a callback, and of what a task kept to itself."""
    loop, raised = asyncio.get_running_loop(), []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: raised.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(before)
    assert raised == []


def random_block(rng: random.Random, encoder: hpack.Encoder) -> bytes:
    kind = rng.random()
    if kind < 0.15:
        return rng.randbytes(rng.randrange(40))
    pairs = request_of(rng.choice(METHODS))
    more = [
        ("grpc-timeout", rng.choice(("1S", "5m", "", "99999999H", "x", "²S"))),
        ("grpc-encoding", rng.choice(("gzip", "identity", "br", "\xff"))),
        ("x-raw-bin", rng.choice(("AAE", "*", "", "A,B,,C", "é"))),
        ("content-length", rng.choice(("5", "x", "", "9" * 5000))),
        ("X-Upper", "1"),
        ("x-long", "y" * rng.choice((1, 5000, 20_000))),
        (":path", "/again"),
        ("content-type", "text/html"),
    ]
    pairs += [rng.choice(more) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    if kind < 0.3:
        rng.shuffle(pairs)
    return encoder.encode(pairs, huffman=rng.random() < 0.5)


def random_message(rng: random.Random) -> bytes:
    kind, body = rng.random(), rng.randbytes(rng.choice((0, 1, 50, 5000, 16_379)))
    if kind < 0.6:
        return framed(body)
    if kind < 0.7:
        return b"\x01" + framed(body)[1:]
    if kind < 0.8:
        return framed(body)[: rng.randrange(len(body) + 5)]
    return rng.randbytes(rng.randrange(100))


def random_frame(rng: random.Random, encoder: hpack.Encoder, stream_id: int) -> bytes:
    flags = rng.choice((0, 1, 4, 5, 5, 5, 8, 13, 0x25, rng.randrange(256)))
    kind = rng.choice((0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 200))
    if kind == frames.HEADERS:
        payload = random_block(rng, encoder)
    elif kind == frames.DATA:
        payload = random_message(rng)[:16_384]
    elif kind == frames.SETTINGS and rng.random() < 0.8:
        names = rng.sample(range(9), 2)
        values = (0, 1, 100, 4096, 16_384, 65_535, 2**31 - 1, 2**32 - 1)
        return frames.settings({name: rng.choice(values) for name in names})
    elif rng.random() < 0.8:
        size = {2: 5, 3: 4, 6: 8, 7: 8, 8: 4}.get(kind, 3)
        payload = rng.choice((bytes(size), rng.randbytes(size), b"\0" * (size - 1) + b"\x05"))
    else:
        payload = rng.randbytes(rng.randrange(30))
    return frames.head(len(payload), kind, flags, stream_id) + payload


def random_talk(rng: random.Random) -> tuple[bytes, bool]:
    """A client's bytes: mostly frames that make sense, some that do not, some bytes changed; and whether none was."""
    encoder, out, stream_id = hpack.Encoder(), [frames.PREFACE, frames.settings({})], -1
    for _ in range(rng.randrange(1, 25)):
        kind = rng.random()
        if kind < 0.5:
            stream_id += 2
            block = encoder.encode(request_of(rng.choice(METHODS)))
            out.append(frames.head(len(block), frames.HEADERS, frames.END_HEADERS, stream_id) + block)
            out.append(Peer.data(stream_id, random_message(rng)[:16_384], is_last=rng.random() < 0.7))
        elif kind < 0.9:
            where = rng.choice((0, stream_id, stream_id + 2, rng.randrange(1, 20)))
            out.append(random_frame(rng, encoder, max(0, where)))
            stream_id = max(stream_id, where | 1)
        else:
            out.append(frames.rst_stream(max(1, stream_id), rng.randrange(15)))
    talk, changes = bytearray(b"".join(out)), rng.choice((0, 0, 1, 5))
    for _ in range(changes):
        talk[rng.randrange(len(talk))] = rng.randrange(256)
    return bytes(talk), not changes


@pytest.mark.parametrize("seed", range(25))
async def test_a_server_survives_whatever_clients_send(port, seed):
    rng = random.Random(seed)
    with capture_logs():
        for _ in range(CALLS):
            talk, is_whole = random_talk(rng)
            async with Peer(*await asyncio.open_connection("127.0.0.1", port)) as peer:
                size = rng.choice((1, 7, 100, 10**6)) if len(talk) < 3000 else 10**6
                for at in range(0, len(talk), size):
                    peer.send(talk[at : at + size])
                    if size < 10**6:
                        await asyncio.sleep(0)
                await peer.settled(is_last=not is_whole)  # it may be waiting for the rest of a frame
        async with await Peer.connect(port) as peer:  # the server serves on
            peer.ask(1)
            assert (await peer.answer(1)).status == "0"


@pytest.mark.parametrize("seed", range(10))
async def test_a_client_survives_whatever_servers_send(seed):
    rng = random.Random(seed)
    talks = [random_server_talk(rng) for _ in range(CALLS)]

    async def say(reader, writer) -> None:
        writer.write(talks.pop())
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with capture_logs():
            for _ in range(CALLS):
                call = await open_stream(
                    address, path("All"), lambda _: None, max_message=MIB, keepalive=Keepalive(1, 1)
                )
                call.write_nowait(b"x" * rng.choice((0, 10, 100_000)))
                async with asyncio.timeout(10):
                    assert (await call.ended_with).code in grpc.StatusCode


def random_server_talk(rng: random.Random) -> bytes:
    out = [frames.settings({}) if rng.random() < 0.9 else b""]
    encoder = hpack.Encoder()
    if rng.random() < 0.8:
        block = b"\x88" + literal(b"content-type", b"application/grpc")
        out.append(frames.head(len(block), frames.HEADERS, 4, 1) + block)
    for _ in range(rng.randrange(8)):
        if rng.random() < 0.5:
            out.append(Peer.data(1, random_message(rng)[:16_384]))
        elif rng.random() < 0.3:
            block = literal(b"grpc-status", rng.choice((b"0", b"5", b"", b"-1", b"9" * 5000, b"\xff")))
            block += literal(b"grpc-message", rng.choice((b"", b"%", b"%zz", b"%ff%", b"\xff")))
            out.append(frames.head(len(block), frames.HEADERS, 5, 1) + block)
        else:
            out.append(random_frame(rng, encoder, rng.choice((0, 1, 1, 2, 3))))
    talk = bytearray(b"".join(out)) or bytearray(b"x")
    for _ in range(rng.choice((0, 0, 1, 5))):
        talk[rng.randrange(len(talk))] = rng.randrange(256)
    return bytes(talk)
