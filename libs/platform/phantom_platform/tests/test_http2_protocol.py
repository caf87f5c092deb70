"""What a server of ours does with single frames, right and wrong (RFC 9113)."""

import asyncio

import grpc
import pytest

from phantom_platform.http2 import frames
from phantom_platform.http2.server import MAX_CONCURRENT_STREAMS, Server
from phantom_platform.http2.streams import framed
from phantom_platform.tests.http2_peers import MIB, Peer, echo, echo_all, request_of, serving

HEADERS, DATA, RST = frames.HEADERS, frames.DATA, frames.RST_STREAM


@pytest.fixture
async def port():
    async def never(requests, context):
        await asyncio.Event().wait()
        yield b""

    async with serving(
        Echo=echo, All=echo_all, Never=grpc.stream_stream_rpc_method_handler(never), max_message=8 * MIB
    ) as port:
        yield port


async def test_a_call_is_answered(port):
    async with await Peer.connect(port) as peer:
        peer.ask(1, b"hello")
        answer = await peer.answer(1)
        assert answer.headers[0] == {
            ":status": "200",
            "content-type": "application/grpc",
            "grpc-accept-encoding": "identity,deflate,gzip",
        }
        assert answer.data == framed(b"hello")
        assert answer.trailers == {"grpc-status": "0"}


async def test_a_preface_that_comes_byte_by_byte_is_one(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = Peer(reader, writer)
    async with peer:
        for byte in frames.PREFACE + frames.settings({}) + peer.headers(1):
            peer.send(bytes((byte,)))
            await asyncio.sleep(0)
        peer.send(peer.data(1, framed(b"x"), is_last=True))
        assert (await peer.answer(1)).status == "0"


async def test_http_1_is_told_what_is_spoken_here(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
    async with Peer(reader, writer) as peer:
        goaway = await peer.end()
        assert goaway is not None
        assert b"HTTP/2" in goaway.payload


@pytest.mark.parametrize("method", ["Echo", "Never"])
async def test_a_request_that_is_no_grpc_is_415_and_the_connection_goes_on(port, method):
    async with await Peer.connect(port) as peer:
        peer.send(peer.headers(1, [*request_of(method)[:5], ("content-type", "text/plain")]))
        assert (await peer.answer(1)).headers == [{":status": "415"}]
        peer.send(
            peer.data(1, b"ignored"), peer.headers(1, [("x", "y")], frames.END_HEADERS | frames.END_STREAM)
        )
        for stream_id in (3, 5):  # the table of headers is still the same on both sides
            peer.ask(stream_id)
            answer = await peer.answer(stream_id)
            assert answer.headers[0]["content-type"] == "application/grpc"
            assert answer.status == "0"


async def test_trailers_that_wait_for_a_window_count_on_the_table_as_it_is_then(port):
    async with await Peer.connect(port, {frames.INITIAL_WINDOW_SIZE: 10}) as peer:
        peer.ask(1, b"first of the connection, and longer than the window")
        await peer.until(DATA, 1)
        peer.decoder.decode(next(each.payload for each in peer.seen if each.kind == HEADERS))
        peer.ask(3, b"fits")
        assert (await peer.answer(3)).status == "0"
        peer.send(frames.window_update(1, 1000))
        assert (await peer.answer(1)).status == "0"


@pytest.mark.parametrize("table_bytes", [0, 50, 65_536])
async def test_a_peer_with_a_table_of_its_own_size_reads_our_headers(port, table_bytes):
    async with await Peer.connect(port, {frames.HEADER_TABLE_SIZE: table_bytes}) as peer:
        peer.decoder.max_allowed_table_size = table_bytes
        if not table_bytes:
            peer.decoder.header_table_size = 0
        for stream_id in (1, 3, 5):
            peer.ask(stream_id)
            assert (await peer.answer(stream_id)).status == "0"


async def test_headers_in_many_pieces_are_one_block(port):
    async with await Peer.connect(port) as peer:
        block = peer.encoder.encode(request_of())
        pieces = [block[at : at + 20] for at in range(0, len(block), 20)]
        peer.send(frames.head(len(pieces[0]), HEADERS, 0, 1), pieces[0])
        for each in pieces[1:]:
            flags = frames.END_HEADERS if each is pieces[-1] else 0
            peer.send(frames.head(len(each), frames.CONTINUATION, flags, 1), each)
        peer.send(peer.data(1, framed(b"x"), is_last=True))
        assert (await peer.answer(1)).status == "0"


async def test_padding_and_priority_are_left_out(port):
    async with await Peer.connect(port) as peer:
        block = b"\x07" + b"\0\0\0\0\x10" + peer.encoder.encode(request_of()) + bytes(7)
        flags = frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY
        peer.send(frames.head(len(block), HEADERS, flags, 1), block)
        body = b"\x05" + framed(b"x") + bytes(5)
        peer.send(frames.head(len(body), DATA, frames.PADDED | frames.END_STREAM, 1), body)
        answer = await peer.answer(1)
        assert answer.status == "0"
        assert answer.data == framed(b"x")


async def test_a_list_of_headers_that_is_too_large_ends_its_call_only(port):
    async with await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Never")))
        peer.send(peer.headers(3, request_of("Echo", *((f"x-{at}", "y" * 150) for at in range(100)))))
        answer = await peer.answer(3)
        assert answer.status == "8"
        assert "metadata" in answer.trailers["grpc-message"]
        peer.ask(5)
        assert (await peer.answer(5)).status == "0"


async def test_a_block_without_end_ends_the_connection(port):
    async with await Peer.connect(port) as peer:
        peer.send(frames.head(10, HEADERS, 0, 1), b"\0" * 10)
        for _ in range(100):
            peer.send(frames.head(1000, frames.CONTINUATION, 0, 1), bytes(1000))
        goaway = await peer.end()
        assert goaway is None or goaway.code == frames.ENHANCE_YOUR_CALM


async def test_a_client_may_end_its_request_with_trailers(port):
    async with await Peer.connect(port) as peer:
        peer.send(peer.headers(1), peer.data(1, framed(b"x")))
        peer.send(peer.headers(1, [("x-sum", "1")], frames.END_HEADERS | frames.END_STREAM))
        assert (await peer.answer(1)).status == "0"


@pytest.mark.parametrize(
    ("pairs", "flags"),
    [
        ([("x-sum", "1")], frames.END_HEADERS),
        ([(":path", "/x")], frames.END_HEADERS | frames.END_STREAM),
        (request_of(), frames.END_HEADERS | frames.END_STREAM),
    ],
)
async def test_trailers_that_are_none_cut_their_stream_off(port, pairs, flags):
    async with await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Never")), peer.headers(1, pairs, flags))
        assert (await peer.answer(1)).reset == frames.PROTOCOL_ERROR
        await peer.ping()


async def test_a_body_is_as_long_as_it_says(port):
    async with await Peer.connect(port) as peer:
        for stream_id, length in ((1, 10), (3, 9), (5, 11)):
            peer.ask(stream_id, b"hello", "Echo", ("content-length", str(length)))
        assert (await peer.answer(1)).status == "0"
        await peer.ping()
        resets = {each.stream_id: each.code for each in peer.seen if each.kind == RST}
        assert resets == {3: frames.PROTOCOL_ERROR, 5: frames.PROTOCOL_ERROR}


async def test_more_streams_than_are_taken_are_refused_and_may_be_asked_again(port):
    async with await Peer.connect(port) as peer:
        first = peer.headers(1, request_of("Never"))
        block = peer.encoder.encode(request_of("Never"))
        peer.send(first)
        for stream_id in range(3, 2 * MAX_CONCURRENT_STREAMS + 3, 2):
            peer.send(frames.head(len(block), HEADERS, frames.END_HEADERS, stream_id), block)
        refused = await peer.until(RST)
        assert (refused.stream_id, refused.code) == (2 * MAX_CONCURRENT_STREAMS + 1, frames.REFUSED_STREAM)
        peer.send(peer.data(refused.stream_id, b"sent before it knew"), frames.rst_stream(1, frames.CANCEL))
        peer.ask(refused.stream_id + 2)
        assert (await peer.answer(refused.stream_id + 2)).status == "0"


# -- what breaks the protocol ----------------------------------------------------------------------------------------

P, F, S, C, Z = (
    frames.PROTOCOL_ERROR,
    frames.FLOW_CONTROL_ERROR,
    frames.STREAM_CLOSED,
    frames.COMPRESSION_ERROR,
    frames.FRAME_SIZE_ERROR,
)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frames.head(4, DATA, 0, 1) + b"well", P),
        (frames.head(0, DATA, 0, 0), P),
        (frames.head(16_385, DATA, 0, 1), Z),
        (frames.head(1, HEADERS, 0x4, 0) + b"\x82", P),
        (frames.head(1, HEADERS, 0x4, 2) + b"\x82", P),
        (frames.head(1, HEADERS, 0x4, 1) + b"\xff", C),
        (frames.head(0, HEADERS, 0xC, 1), Z),
        (frames.head(2, HEADERS, 0xC, 1) + b"\x09\x00", P),
        (frames.head(1, HEADERS, 0x24, 1) + b"\x00", P),
        (frames.head(1, HEADERS, 0, 1) + b"\x82" + frames.ping(bytes(8)), P),
        (frames.head(1, HEADERS, 0, 1) + b"\x82" + frames.head(1, frames.CONTINUATION, 4, 3) + b"\x82", P),
        (frames.head(1, frames.CONTINUATION, 4, 1) + b"\x82", P),
        (frames.head(5, frames.PRIORITY, 0, 0) + bytes(5), P),
        (frames.rst_stream(0, 0), P),
        (frames.rst_stream(1, 0), P),
        (frames.head(3, RST, 0, 1) + bytes(3), Z),
        (frames.head(6, frames.SETTINGS, 0, 1) + bytes(6), P),
        (frames.head(5, frames.SETTINGS, 0, 0) + bytes(5), Z),
        (frames.head(6, frames.SETTINGS, 1, 0) + bytes(6), Z),
        (frames.settings({frames.ENABLE_PUSH: 2}), P),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), F),
        (frames.settings({frames.MAX_FRAME_SIZE: 100}), P),
        (frames.head(4, frames.PUSH_PROMISE, 4, 1) + bytes(4), P),
        (frames.head(7, frames.PING, 0, 0) + bytes(7), Z),
        (frames.head(8, frames.PING, 0, 1) + bytes(8), P),
        (frames.head(4, frames.GOAWAY, 0, 0) + bytes(4), Z),
        (frames.head(8, frames.GOAWAY, 0, 1) + bytes(8), P),
        (frames.window_update(0, 0), P),
        (frames.window_update(0, 2**31 - 1), F),
        (frames.window_update(1, 5), P),
        (frames.head(3, frames.WINDOW_UPDATE, 0, 0) + bytes(3), Z),
    ],
)
async def test_what_breaks_the_connection_ends_it_and_says_why(port, sent, code):
    async with await Peer.connect(port) as peer:
        peer.send(sent)
        goaway = await peer.end()
        assert goaway is not None
        assert goaway.code == code


async def test_settings_come_first(port):
    for early in (frames.ping(bytes(8)), frames.head(1, HEADERS, 4, 1) + b"\x82"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with Peer(reader, writer) as peer:
            peer.send(frames.PREFACE, early)
            goaway = await peer.end()
            assert goaway is not None
            assert goaway.code == P


async def test_frames_of_kinds_that_nobody_knows_are_ignored(port):
    async with await Peer.connect(port) as peer:
        peer.send(frames.head(3, 77, 255, 9) + b"abc", frames.settings({99: 1}))
        peer.ask(1)
        assert (await peer.answer(1)).status == "0"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frames.window_update(1, 0), P),
        (frames.window_update(1, 2**31 - 1), F),
        (frames.head(4, frames.PRIORITY, 0, 1) + bytes(4), Z),
        (frames.head(5, frames.PRIORITY, 0, 1) + b"\0\0\0\x01\0", P),
    ],
)
async def test_what_breaks_a_stream_ends_that_alone(port, sent, code):
    async with await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Never")), sent)
        reset = await peer.until(RST, 1)
        assert reset.code == code
        peer.send(peer.data(1, b"sent before it knew"))
        peer.ask(3)
        assert (await peer.answer(3)).status == "0"


async def test_data_after_the_end_cuts_the_stream_off(port):
    async with await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Never"), frames.END_HEADERS | frames.END_STREAM))
        peer.send(peer.data(1, b"more"))
        assert (await peer.answer(1)).reset == S


async def test_headers_after_the_end_end_the_connection(port):
    async with await Peer.connect(port) as peer:
        peer.ask(1)
        await peer.answer(1)
        peer.send(peer.headers(1))
        goaway = await peer.end()
        assert goaway is not None
        assert (goaway.code, int.from_bytes(goaway.payload[:4], "big")) == (S, 1)


async def test_one_server_is_refused_another_ones_port():
    first, second = Server(), Server()
    port = first.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="in use"):
        second.add_insecure_port(f"127.0.0.1:{port}")
    for wrong in ("127.0.0.1:x", "127.0.0.1", "127.0.0.1:70000", "no-such-host.invalid:0"):
        with pytest.raises(RuntimeError, match="cannot listen"):
            second.add_insecure_port(wrong)
    with pytest.raises(NotImplementedError, match="TLS"):
        second.add_secure_port("127.0.0.1:0", None)
    await first.stop(None)
    await second.stop(None)
