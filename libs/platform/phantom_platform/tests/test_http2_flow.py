"""Windows and back-pressure at a server of ours, both ways."""

import asyncio

import grpc
import pytest

from phantom_platform.http2 import frames
from phantom_platform.http2.connection import STREAM_WINDOW
from phantom_platform.http2.streams import framed
from phantom_platform.tests.http2_peers import MIB, Peer, echo, echo_all, path, request_of, serving

DATA = frames.DATA


def large(size: int) -> bytes:
    return b"x" * size


unary, streams = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler


async def sized(body, context):
    return large(int(body))


@pytest.fixture
async def port():
    async with serving(Echo=echo, All=echo_all, Sized=unary(sized)) as port:
        yield port


def sent(peer: Peer, stream_id: int) -> int:
    return sum(len(each.payload) for each in peer.seen if each.kind == DATA and each.stream_id == stream_id)


async def test_no_more_is_sent_than_a_stream_has_room_for(port):
    async with await Peer.connect(port, {frames.INITIAL_WINDOW_SIZE: 1000}) as peer:
        peer.ask(1, b"5000", "Sized")
        await peer.ping()
        assert sent(peer, 1) == 1000
        for room in (1, 999, 1000):
            before = sent(peer, 1)
            peer.send(frames.window_update(1, room))
            await peer.ping()
            assert sent(peer, 1) == before + room
        peer.send(frames.window_update(1, 100_000))
        assert (await peer.until(frames.HEADERS, 1)).is_last
        assert sent(peer, 1) == 5005


async def test_no_more_is_sent_than_the_connection_has_room_for_and_all_get_a_share(port):
    async with await Peer.connect(port, {frames.INITIAL_WINDOW_SIZE: MIB}) as peer:
        for stream_id in (1, 3, 5):
            peer.ask(stream_id, b"300000", "Sized")
        await peer.ping()
        assert sum(sent(peer, each) for each in (1, 3, 5)) == frames.DEFAULT_WINDOW
        before = {each: sent(peer, each) for each in (1, 3, 5)}
        peer.send(frames.window_update(0, 90_000))
        await peer.ping()
        assert sum(sent(peer, each) for each in (1, 3, 5)) == frames.DEFAULT_WINDOW + 90_000
        assert all(sent(peer, each) - before[each] >= 16_384 for each in before)
        peer.send(frames.window_update(0, MIB))
        ended = [(await peer.until(frames.HEADERS)).stream_id for _ in range(3)]
        assert sorted(ended) == [1, 3, 5]


async def test_a_stream_that_takes_nothing_holds_up_no_other(port):
    async with await Peer.connect(port, {frames.INITIAL_WINDOW_SIZE: 100}) as peer:
        peer.ask(1, b"1000", "Sized")
        peer.ask(3, b"50", "Sized")
        assert (await peer.answer(3)).status == "0"
        assert sent(peer, 1) == 100


async def test_windows_that_shrink_below_nothing_have_to_be_filled_first(port):
    async with await Peer.connect(port, {frames.INITIAL_WINDOW_SIZE: 1000}) as peer:
        peer.ask(1, b"5000", "Sized")
        await peer.ping()
        peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))  # now at -1000
        peer.send(frames.window_update(1, 1000))
        await peer.ping()
        assert sent(peer, 1) == 1000
        peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 500}))
        await peer.ping()
        assert sent(peer, 1) == 1500
        peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 10_000}))
        await peer.until(frames.HEADERS, 1)
        assert sent(peer, 1) == 5005


async def test_a_peer_may_take_larger_frames(port):
    async with await Peer.connect(
        port, {frames.INITIAL_WINDOW_SIZE: MIB, frames.MAX_FRAME_SIZE: 60_000}
    ) as peer:
        peer.ask(1, b"64000", "Sized")
        await peer.until(frames.HEADERS, 1)
        await peer.until(frames.HEADERS, 1)
        assert max(len(each.payload) for each in peer.seen) == 60_000


async def test_messages_that_nobody_reads_press_back_and_reading_gives_room_again():
    may_read = asyncio.Event()

    async def late(requests, context):
        await may_read.wait()
        async for each in requests:
            yield b"%d" % len(each)

    async with serving(Late=streams(late)) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Late")))
        message = framed(large(16_000))
        for _ in range(STREAM_WINDOW // len(message)):
            peer.send(peer.data(1, message))
        await peer.ping()
        updates = [each for each in peer.seen if each.kind == frames.WINDOW_UPDATE]
        assert {each.stream_id for each in updates} == {0}
        may_read.set()
        update = await peer.until(frames.WINDOW_UPDATE, 1)
        room = int.from_bytes(update.payload, "big")
        assert room == STREAM_WINDOW // len(message) * len(message)


async def test_a_client_that_sends_above_its_window_is_cut_off():
    async def never(requests, context):
        await asyncio.Event().wait()
        yield b""

    async with serving(Never=streams(never)) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Never")))
        messages = framed(b"") * 3000
        for _ in range(STREAM_WINDOW // len(messages) + 1):
            peer.send(peer.data(1, messages))
        assert (await peer.answer(1)).reset == frames.FLOW_CONTROL_ERROR
        await peer.ping()


async def test_a_message_larger_than_the_window_gets_through_in_pieces(port):
    async with await Peer.connect(port, {frames.INITIAL_WINDOW_SIZE: 2**31 - 1}) as peer:
        peer.send(frames.window_update(0, 2**30), peer.headers(1))
        body, at, room = framed(large(3 * MIB)), 0, STREAM_WINDOW
        while at < len(body):
            if not room:
                room += int.from_bytes((await peer.until(frames.WINDOW_UPDATE, 1)).payload, "big")
            piece = body[at : at + min(room, 16_384)]
            at, room = at + len(piece), room - len(piece)
            peer.send(peer.data(1, piece, is_last=at == len(body)))
        assert (await peer.answer(1)).data == body


async def test_many_small_messages_in_one_frame_are_all_there(port):
    async with await Peer.connect(port) as peer:
        body = b"".join(framed(b"%d" % at) for at in range(1500))
        peer.send(
            peer.headers(1, request_of("All")),
            peer.data(1, body[:9_001]),
            peer.data(1, body[9_001:], is_last=True),
        )
        assert (await peer.answer(1)).data == body


async def test_a_message_that_comes_byte_by_byte_is_whole(port):
    async with await Peer.connect(port) as peer:
        body = framed(b"a message in pieces") + framed(b"")
        peer.send(peer.headers(1, request_of("All")))
        for byte in body:
            peer.send(peer.data(1, bytes((byte,))))
        peer.send(peer.data(1, b"", is_last=True))
        assert (await peer.answer(1)).data == body


async def test_a_client_that_reads_nothing_is_not_read_either():
    asked = 0

    async def big(body, context):
        nonlocal asked
        asked += 1
        return large(100_000)

    async with serving(Big=unary(big)) as port:
        peer = await Peer.connect(port, {frames.INITIAL_WINDOW_SIZE: 2**31 - 1})
        async with peer:
            peer.writer.transport.pause_reading()
            peer.send(frames.window_update(0, 2**30))
            peer.ask(1, b"", "Big")
            block = peer.encoder.encode(request_of("Big"))  # the same for all: it is in the table now
            total = 5000
            for at in range(1, total):
                peer.send(frames.head(len(block), frames.HEADERS, frames.END_HEADERS, 2 * at + 1), block)
                peer.send(peer.data(2 * at + 1, framed(bytes(1000)), is_last=True))
            seen = -1
            while seen != asked:  # until it has come to a stop
                seen = asked
                await asyncio.sleep(0.2)
            assert 0 < asked < total
            peer.writer.transport.resume_reading()
            ended = 0
            async with asyncio.timeout(60):
                while ended < total:
                    ended += (await peer.frame()).is_last
            assert asked == total


async def test_a_slow_reader_of_a_large_stream_gets_it_all(port):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.stream_stream(path("All"))(timeout=60)

        async def write() -> None:
            for at in range(30):
                await call.write(bytes((at,)) * 2 * MIB)
            await call.done_writing()

        writing = asyncio.create_task(write())
        for at in range(30):
            message = await call.read()
            assert (len(message), message[0]) == (2 * MIB, at)
            await asyncio.sleep(0.01)
        await writing
        assert await call.code() is grpc.StatusCode.OK
