"""One call's life at a server of ours: how handlers end, how clients go, what is refused."""

import asyncio
import base64
import gc
import gzip
import zlib

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from phantom_platform.http2 import frames
from phantom_platform.http2.calls import ServerStream
from phantom_platform.http2.streams import framed
from phantom_platform.tests.http2_peers import MIB, Answer, Peer, echo, echo_all, path, request_of, serving

unary = grpc.unary_unary_rpc_method_handler
streams = grpc.stream_stream_rpc_method_handler


class Waiting:
    """Handlers that wait until they are cancelled, and tell what became of them."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.context = None

    async def wait(self, request, context):
        self.context = context
        context.add_done_callback(lambda done: self.ended.put_nowait(f"done, cancelled={done.cancelled()}"))
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.put_nowait("unwound")
        return b""

    async def stream(self, requests, context):
        yield await self.wait(requests, context)

    async def has_ended(self) -> list[str]:
        async with asyncio.timeout(10):
            return [await self.ended.get(), await self.ended.get()]


def reason_of(answer: Answer) -> str:
    """The stable code of a refusal."""
    raw = answer.trailers["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(raw + "=" * (-len(raw) % 4)))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "phantom"
    return info.reason


# -- clients that go ------------------------------------------------------------


@pytest.mark.parametrize("method", ["Wait", "Stream"])
@pytest.mark.parametrize("how", ["reset", "lost", "cancelled by grpc"])
async def test_a_client_that_goes_cancels_its_handler(method, how):
    waiting = Waiting()
    async with serving(Wait=unary(waiting.wait), Stream=streams(waiting.stream)) as port:
        if how == "cancelled by grpc":
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary(path(method))(b"")
                await waiting.begun.wait()
                call.cancel()
                assert await waiting.has_ended() == ["unwound", "done, cancelled=True"]
            return
        async with await Peer.connect(port) as peer:
            peer.ask(1, b"", method)
            await waiting.begun.wait()
            assert not waiting.context.cancelled()
            if how == "reset":
                peer.send(frames.rst_stream(1, frames.CANCEL))
            else:
                peer.writer.transport.abort()
            assert await waiting.has_ended() == ["unwound", "done, cancelled=True"]
            assert waiting.context.done()


async def test_a_handlers_other_tasks_learn_that_the_client_has_gone():
    told: asyncio.Queue[BaseException] = asyncio.Queue()
    ready = asyncio.Event()

    async def handler(requests, context):
        async def noted(what) -> None:
            try:
                await what
            except BaseException as error:
                told.put_nowait(error)

        tasks = [asyncio.create_task(noted(context.read()))]
        tasks += [asyncio.create_task(noted(context.write(b"x" * MIB))) for _ in range(3)]
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.wait(tasks, timeout=5)
            with pytest.raises(asyncio.InvalidStateError):
                await context.write(b"")

    async with serving(All=streams(handler)) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("All")))
        await ready.wait()
        await peer.until(frames.DATA)
        peer.send(frames.rst_stream(1, frames.CANCEL))
        async with asyncio.timeout(5):
            assert isinstance(await told.get(), asyncio.CancelledError)


async def test_a_deadline_ends_a_streaming_call_whose_client_says_nothing():
    waiting = Waiting()
    async with serving(Stream=streams(waiting.stream)) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Stream", ("grpc-timeout", "100m"))))
        answer = await peer.answer(1)
        assert answer.status == "4"
        assert "unwound" in await waiting.has_ended()


async def test_a_call_that_is_gone_before_its_handler_begins_leaves_nothing_behind():
    waiting = Waiting()
    async with serving(Stream=streams(waiting.stream)) as port, await Peer.connect(port) as peer:
        head = peer.headers(1, request_of("Stream", ("grpc-timeout", "20H")))
        peer.send(head, frames.rst_stream(1, frames.CANCEL))
        await peer.ping()
        gc.collect()
        assert not waiting.begun.is_set()
        left = [each for each in gc.get_objects() if isinstance(each, ServerStream)]
        assert [each for each in left if each.head.timeout_s == 20 * 3600] == []


async def test_a_deadline_ends_a_stream_whose_client_takes_nothing():
    cancelled = asyncio.Event()

    async def handler(requests, context):
        try:
            while True:
                await context.write(b"x" * 50_000)
        finally:
            cancelled.set()

    async with serving(All=streams(handler)) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("All", ("grpc-timeout", "200m"))))
        assert (await peer.answer(1)).reset == frames.CANCEL
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_handlers_are_told_how_long_they_have():
    async def left(body, context):
        return b"%r" % context.time_remaining()

    async with serving(Left=unary(left)) as port, await Peer.connect(port) as peer:
        peer.ask(1, b"", "Left", ("grpc-timeout", "2S"))
        assert 1.0 < float((await peer.answer(1)).data[5:]) <= 2.0
        peer.ask(3, b"", "Left", ("grpc-timeout", "0n"))
        assert float((await peer.answer(3)).data[5:]) == 0.0
        peer.ask(5, b"", "Left")
        assert (await peer.answer(5)).data[5:] == b"None"


# -- handlers that end ------------------------------------------------------------


async def _raises(*_):
    raise KeyError("inside")


async def _ends_as_cancelled(*_):
    raise asyncio.CancelledError


async def _answers_none(*_):
    return None


async def _bad_initial(body, context):
    await context.send_initial_metadata((("Upper", "x"),))
    return b""


async def _bad_trailing(body, context):
    context.set_trailing_metadata((("x", "line\nfeed"),))
    return b""


async def _code_and_answer(body, context):
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("not here")
    return b"not sent"


async def _swallowed_abort(body, context):
    with pytest.raises(grpc.aio.AbortError):
        await context.abort(grpc.StatusCode.ABORTED, "stays")
    return b"not sent"


async def _aborts_with_ok(body, context):
    await context.abort(grpc.StatusCode.OK)


def _not_async(body, context):
    return body


@pytest.mark.parametrize(
    ("handler", "status", "message"),
    [
        (_raises, "2", "unexpected KeyError"),
        (_ends_as_cancelled, "1", "the handler was cancelled"),
        (_answers_none, "2", "unexpected TypeError"),
        (_bad_initial, "2", "unexpected ValueError"),
        (_bad_trailing, "2", "unexpected ValueError"),
        (_code_and_answer, "5", "not here"),
        (_swallowed_abort, "10", "stays"),
        (_aborts_with_ok, "2", "unexpected ValueError"),
        (_not_async, "2", "unexpected TypeError"),
    ],
)
@pytest.mark.filterwarnings("error")
async def test_however_a_handler_ends_its_client_is_answered(handler, status, message):
    finished = asyncio.Event()

    def watched(body, context):
        context.add_done_callback(lambda _: finished.set())
        return handler(body, context)

    async with serving(Echo=echo, Other=unary(watched)) as port, await Peer.connect(port) as peer:
        with capture_logs():
            peer.ask(1, b"", "Other")
            answer = await peer.answer(1)
        assert (answer.status, answer.trailers["grpc-message"], answer.data) == (status, message, b"")
        await asyncio.wait_for(finished.wait(), 5)
        peer.ask(3)  # the tables of headers still agree
        assert (await peer.answer(3)).trailers == {"grpc-status": "0"}


async def test_a_handler_that_fails_in_the_middle_of_its_answers_says_so():
    async def two(requests, context):
        yield b"1"
        yield b"2"
        raise RuntimeError("no more")

    async with serving(Two=streams(two)) as port, await Peer.connect(port) as peer:
        with capture_logs() as logged:
            peer.ask(1, b"", "Two")
            answer = await peer.answer(1)
        assert answer.data == framed(b"1") + framed(b"2")
        assert (answer.status, answer.trailers["grpc-message"]) == ("2", "unexpected RuntimeError")
        assert [(each["action"], each["method"]) for each in logged] == [("call_failed", path("Two"))]


async def test_an_answer_before_the_request_has_ended_stops_the_request():
    async def early(requests, context):
        yield b"enough"

    async with serving(Early=streams(early)) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("Early")))
        assert (await peer.answer(1)).status == "0"
        assert (await peer.until(frames.RST_STREAM, 1)).code == frames.NO_ERROR
        peer.send(*[peer.data(1, b"x" * 16_000)] * 3, peer.data(1, b"", is_last=True))
        await peer.ping()
        assert [each.kind for each in peer.seen if each.stream_id == 1][-1] == frames.RST_STREAM


async def test_initial_metadata_of_a_stream_goes_out_at_once():
    async def handler(requests, context):
        await context.send_initial_metadata((("x-first", "1"),))
        async for each in requests:
            yield each

    async with serving(All=streams(handler)) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, request_of("All")))
        head = await peer.until(frames.HEADERS, 1)
        assert ("x-first", "1") in [tuple(each) for each in peer.decoder.decode(head.payload)]


# -- requests that are refused ------------------------------------------------------------


def compressed(message: bytes, flag: int = 1) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


GZIP, DEFLATE, SNAPPY = (("grpc-encoding", each) for each in ("gzip", "deflate", "snappy"))
BOMB = gzip.compress(bytes(100 * MIB), 9)


@pytest.mark.parametrize(
    ("body", "more", "status", "reason"),
    [
        (b"", [], "13", "no_message"),
        (framed(b"a") + framed(b"b"), [], "13", "too_many_messages"),
        (framed(b"abc")[:-1], [], "13", "truncated_message"),
        (framed(b"abc")[:3], [], "13", "truncated_message"),
        (framed(b"abc") + b"\0", [], "13", "truncated_message"),
        (b"\0\xff\xff\xff\xff", [], "8", "request_too_large"),
        (framed(b"x" * (MIB + 1)), [], "8", "request_too_large"),
        (framed(b""), [("grpc-timeout", "soon")], "13", "malformed_header"),
        (framed(b""), [("x-raw-bin", "*")], "13", "malformed_header"),
        (compressed(b"abc"), [], "13", "corrupt_message"),
        (compressed(b"abc", 9), [GZIP], "13", "corrupt_message"),
        (compressed(b"abc"), [GZIP], "13", "corrupt_message"),
        (compressed(b""), [GZIP], "13", "corrupt_message"),
        (compressed(gzip.compress(b"abc")[:-5]), [GZIP], "13", "corrupt_message"),
        (compressed(gzip.compress(b"abc")), [DEFLATE], "13", "corrupt_message"),
        (compressed(b"abc"), [SNAPPY], "12", "unknown_compression"),
        (compressed(BOMB), [GZIP], "8", "request_too_large"),
        (compressed(zlib.compress(bytes(MIB + 1))), [DEFLATE], "8", "request_too_large"),
    ],
)
@pytest.mark.parametrize("size", [16_384, 7])
async def test_a_request_that_cannot_be_taken_is_refused_with_a_stable_code(body, more, status, reason, size):
    if size == 7 and len(body) > 1000:
        size = 4099
    async with (
        serving(Echo=echo, max_message=MIB) as port,
        await Peer.connect(port) as peer,
    ):
        peer.send(peer.headers(1, request_of("Echo", *more)))
        pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        for each in pieces:
            peer.send(peer.data(1, each, is_last=each is pieces[-1]))
        answer = await peer.answer(1)
        assert (answer.status, reason_of(answer), answer.data) == (status, reason, b"")
        assert answer.headers[0]["grpc-accept-encoding"] == "identity,deflate,gzip"
        peer.ask(3)
        assert (await peer.answer(3)).status == "0"


async def test_a_method_that_is_not_there_is_refused_before_its_message_comes():
    async with serving(All=echo_all) as port, await Peer.connect(port) as peer:
        peer.send(peer.headers(1, [*request_of()[:2], (":path", "no slash é"), *request_of()[3:]]))
        answer = await peer.answer(1)
        assert (answer.status, reason_of(answer)) == ("12", "unknown_method")


async def test_a_request_that_its_handler_cannot_parse_is_refused():
    def parse(raw: bytes) -> str:
        return raw.decode()

    async def words(text, context):
        return text.encode()

    async def stream(text, context):
        yield text.encode()

    async def each(requests, context):
        async for text in requests:
            yield text.encode()

    handlers = {
        "Unary": unary(words, parse),
        "Answers": grpc.unary_stream_rpc_method_handler(stream, parse),
        "Both": streams(each, parse),
    }
    async with serving(**handlers) as port, await Peer.connect(port) as peer:
        for at, method in enumerate(handlers):
            peer.ask(4 * at + 1, b"\xff", method)
            answer = await peer.answer(4 * at + 1)
            assert (answer.status, reason_of(answer)) == ("13", "malformed_message")
            peer.ask(4 * at + 3, b"fine", method)
            assert (await peer.answer(4 * at + 3)).data == framed(b"fine")
