"""The grpc library's clients against a server of ours."""

import asyncio
import time

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from phantom_platform.http2.server import Server
from phantom_platform.rpc.health import Health
from phantom_platform.tests.http2_peers import MIB, SERVICE, echo, echo_all, path, serving

LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
META = (("x-word", "value"), ("x-raw-bin", bytes(range(256))), ("x-word", "again"))


async def told(body, context):
    """Says what it was told, and in every place where a server can speak."""
    seen = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-")]
    await context.send_initial_metadata(seen)
    context.set_trailing_metadata([*seen, ("x-peer", context.peer())])
    context.set_details("ok!")
    return body


async def aborting(body, context):
    await context.send_initial_metadata((("x-first", "1"),))
    await context.abort(grpc.StatusCode.ALREADY_EXISTS, "schön\n100 %", (("x-raw-bin", b"\x00\xff"),))


async def counting(body, context):
    for at in range(int(body)):
        yield b"%d" % at


async def writing(body, context):
    for at in range(int(body)):
        await context.write(b"%d" % at)


async def joining(requests, context):
    return b"+".join([each async for each in requests])


@pytest.fixture
async def port():
    unary, streamed = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    async with serving(
        Echo=echo,
        All=echo_all,
        Told=unary(told),
        Abort=unary(aborting),
        Count=streamed(counting),
        Write=streamed(writing),
        Join=grpc.stream_unary_rpc_method_handler(joining),
    ) as port:
        yield port


@pytest.fixture
async def channel(port):
    options = [*LARGE, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


async def test_metadata_goes_both_ways_in_every_place(channel):
    call = channel.unary_unary(path("Told"))(b"hello", metadata=META, timeout=10)
    assert await call == b"hello"
    assert sorted(await call.initial_metadata(), key=str) == sorted(META, key=str)
    trailing = dict(await call.trailing_metadata())
    assert trailing["x-raw-bin"] == bytes(range(256))
    assert trailing["x-peer"].startswith("ipv4:127.0.0.1:")
    assert await call.code() is grpc.StatusCode.OK


async def test_an_abort_carries_code_details_and_metadata(channel):
    call = channel.unary_unary(path("Abort"))(b"", timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert caught.value.details() == "schön\n100 %"
    assert dict(caught.value.trailing_metadata())["x-raw-bin"] == b"\x00\xff"
    assert dict(caught.value.initial_metadata()) == {"x-first": "1"}


@pytest.mark.parametrize("method", ["Count", "Write"])
async def test_a_handler_streams_by_yielding_and_by_writing(channel, method):
    for count in (0, 1, 3000):
        call = channel.unary_stream(path(method))(b"%d" % count, timeout=20)
        assert [each async for each in call] == [b"%d" % at for at in range(count)]
        assert await call.code() is grpc.StatusCode.OK


async def test_a_client_streams_and_is_answered_once(channel):
    assert await channel.stream_unary(path("Join"))(iter([b"a", b"", b"c"]), timeout=10) == b"a++c"


async def test_both_stream_in_turns(channel):
    call = channel.stream_stream(path("All"))(timeout=20)
    for at in range(100):
        await call.write(b"%d" % at)
        assert await call.read() == b"%d" % at
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_531, MIB, 20 * MIB, 63 * MIB])
async def test_messages_of_every_size_go_both_ways(channel, size):
    message = b"abcdefg" * (size // 7 + 1)
    assert await channel.unary_unary(path("Echo"))(message[:size], timeout=60) == message[:size]


async def test_large_messages_stream_both_ways(channel):
    message = bytes(range(256)) * (5 * MIB // 256)
    call = channel.stream_stream(path("All"))(iter([message] * 8), timeout=60)
    assert [len(each) async for each in call] == [len(message)] * 8


async def test_a_thousand_streams_share_a_connection(channel):
    method = channel.stream_stream(path("All"))
    calls = [method(timeout=60) for _ in range(1000)]
    for round_ in range(2):
        await asyncio.gather(*(call.write(b"%d-%d" % (round_, at)) for at, call in enumerate(calls)))
        read = await asyncio.gather(*(call.read() for call in calls))
        assert read == [b"%d-%d" % (round_, at) for at in range(1000)]
    await asyncio.gather(*(call.done_writing() for call in calls))
    assert {await call.code() for call in calls} == {grpc.StatusCode.OK}


async def test_unary_calls_at_once_get_their_own_answers(channel):
    method = channel.unary_unary(path("Echo"))
    bodies = [b"%d" % at * (1 + at % 50 * 400) for at in range(500)]
    assert await asyncio.gather(*(method(body, timeout=60) for body in bodies)) == bodies


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(channel, compression):
    for message in (b"", b"a" * 100_000, bytes(range(256)) * 20_000):
        call = channel.unary_unary(path("Echo"))(message, compression=compression, timeout=20)
        assert await call == message


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_above_the_limit_is_refused_with_our_code(compression):
    async with (
        serving(Echo=echo, All=echo_all, max_message=MIB) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", compression=compression) as channel,
    ):
        echoed = channel.unary_unary(path("Echo"))
        assert len(await echoed(b"x" * MIB, timeout=10)) == MIB
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await echoed(b"x" * (MIB + 1), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(
            dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        )
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.domain) == ("request_too_large", "phantom")
        call = channel.stream_stream(path("All"))(iter([b"fits", b"x" * (MIB + 1)]), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            assert [each async for each in call] in ([], [b"fits"])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await echoed(b"the connection goes on", timeout=10) == b"the connection goes on"


async def test_what_is_not_served_is_unimplemented(channel):
    for method in ("Nothing", "", "%20"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path(method))(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_that_is_too_large_is_refused(port):
    options = [("grpc.max_metadata_size", 10**6), ("grpc.absolute_max_metadata_size", 10**6)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        method = channel.unary_unary(path("Echo"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", metadata=(("x-long", "y" * 30_000),), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await method(b"x", metadata=(("x-long", "y" * 10_000),), timeout=10) == b"x"


def test_the_blocking_client_is_served_too(port_of_a_thread):
    with grpc.insecure_channel(f"127.0.0.1:{port_of_a_thread}", options=LARGE) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        assert channel.unary_unary(path("Echo"))(b"x" * 5 * MIB, timeout=20) == b"x" * 5 * MIB
        assert [*channel.stream_stream(path("All"))(iter([b"a", b"b"]), timeout=10)] == [b"a", b"b"]
        future = channel.unary_unary(path("Echo")).future(b"later", timeout=10)
        assert future.result() == b"later"


@pytest.fixture
async def port_of_a_thread():
    """A server on a loop in another thread: the test blocks its own."""
    started: asyncio.Queue[int] = asyncio.Queue()
    loop, ending = asyncio.get_running_loop(), []

    async def run() -> None:
        end = asyncio.Event()
        ending.extend((asyncio.get_running_loop(), end))
        async with serving(Echo=echo, All=echo_all) as port:
            loop.call_soon_threadsafe(started.put_nowait, port)
            await end.wait()

    thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(run())))
    yield await started.get()
    ending[0].call_soon_threadsafe(ending[1].set)
    await thread


async def test_reflection_and_health_are_served():
    server = Server()
    health = Health(frozenset((SERVICE,)), dict)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(("grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def services() -> list[str]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert database.FindFileContainingSymbol("grpc.health.v1.Health").package == "grpc.health.v1"
            return sorted(database.get_services())

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        assert (await stub.Check(request, timeout=10)).status == health_pb2.HealthCheckResponse.SERVING
        assert await asyncio.to_thread(services) == ["grpc.health.v1.Health", reflection.SERVICE_NAME]
        watch = stub.Watch(request, timeout=20)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        health.stop()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff\xff", timeout=10).read()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
    await server.stop(1)


async def test_a_client_waits_until_the_server_is_there():
    server = Server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.stop(None)
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary(path("Echo"))(b"x", wait_for_ready=True, timeout=20)
        await asyncio.sleep(0.2)  # the client has tried, and waits
        server = Server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Echo": echo}),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        assert await call == b"x"
    await server.stop(None)


@pytest.mark.parametrize("address", ["[::1]:0", "localhost:0", "0.0.0.0:0", "[::]:0"])
async def test_any_kind_of_address_is_listened_on(address):
    server = Server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Echo": echo}),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        pytest.skip(f"this machine has no {address}")
    await server.start()
    host = {"[::]": "[::1]", "0.0.0.0": "127.0.0.1"}.get(address[:-2], address[:-2])
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        assert await channel.unary_unary(path("Echo"))(b"x", timeout=10) == b"x"
    await server.stop(None)


async def test_pings_keep_a_silent_connection(port):
    options = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.stream_stream(path("All"))(timeout=20)
        await call.write(b"x")
        assert await call.read() == b"x"
        began = time.monotonic()
        await asyncio.sleep(1.5)  # silence is what is tested
        await call.write(b"y")
        assert await call.read() == b"y"
        assert time.monotonic() - began < 10
        call.cancel()
