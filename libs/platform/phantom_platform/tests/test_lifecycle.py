"""Start, stop, drain and death, the last two of a real process."""

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest

from phantom_platform.errors import Refused
from phantom_platform.lifecycle import Application, Readiness, Task


class Recorder:
    def __init__(self, name: str, events: list[str], error: Exception | None = None) -> None:
        self.name = name
        self._events = events
        self._error = error

    async def start(self) -> None:
        if self._error is not None:
            raise self._error
        self._events.append(f"+{self.name}")

    async def stop(self) -> None:
        self._events.append(f"-{self.name}")


async def test_parts_start_in_order_and_stop_in_reverse():
    events: list[str] = []
    app = Application("test")
    for name in "abc":
        app.add(Recorder(name, events))
    await app.start()
    await app.stop()
    assert events == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_a_part_that_cannot_start_stops_those_before_it_and_says_why():
    events: list[str] = []
    app = Application("test")
    app.add(Recorder("a", events))
    app.add(Recorder("b", events, Refused("the port is taken")))
    app.add(Recorder("c", events))
    with pytest.raises(Refused, match="the port is taken"):
        await app.start()
    assert events == ["+a", "-a"]


async def test_a_part_that_fails_to_stop_keeps_no_other_from_stopping():
    events: list[str] = []

    class Broken(Recorder):
        async def stop(self) -> None:
            raise RuntimeError("stuck")

    app = Application("test")
    app.add(Recorder("a", events))
    app.add(Broken("b", events))
    await app.start()
    await app.stop()
    assert events == ["+a", "+b", "-a"]


async def test_merged_services_start_and_answer_for_their_readiness_together():
    events: list[str] = []
    one, two, process = Application("one"), Application("two"), Application("process")
    one.add(Recorder("a", events))
    two.add(Recorder("b", events))
    two.readiness["relay"] = lambda: Readiness(False, "Kafka is away")
    process.merge(one)
    process.merge(two)
    assert process.unready() == {"lifecycle": "starting"}
    await process.start()
    assert process.unready() == {"two.relay": "Kafka is away"}
    await process.stop()
    assert process.unready() == {"lifecycle": "stopping"}
    assert events == ["+a", "+b", "-b", "-a"]


def test_what_needs_attention_is_collected_from_parts_and_services_each_sentence_once():
    class Worried(Recorder):
        def attention(self) -> list[str]:
            return ["the outbox grows"]

    events: list[str] = []
    one, two, process = Application("one"), Application("two"), Application("process")
    one.add(Worried("a", events))
    one.add(Recorder("b", events))
    two.add(Worried("c", events))
    two.concerns.append(lambda: ["a gateway is silent"])
    process.merge(one)
    process.merge(two)
    assert process.needing_attention() == ["the outbox grows", "a gateway is silent"]


@pytest.mark.parametrize("how", ["raises", "returns", "is cancelled by a stranger"])
async def test_the_death_of_a_task_ends_the_application_with_code_1(how):
    async def work() -> None:
        if how == "raises":
            raise ValueError("no such column")
        if how == "is cancelled by a stranger":
            raise asyncio.CancelledError

    events: list[str] = []
    app = Application("test")
    app.add(Recorder("a", events))
    app.add(Task("consumer", work))
    async with asyncio.timeout(10):
        assert await app.run() == 1
    assert events == ["+a", "-a"]


async def test_a_task_inside_a_part_is_watched_too():
    class Relay:
        name = "relay"

        def __init__(self) -> None:
            self._task = Task("relay loop", self._run)

        async def start(self) -> None:
            await self._task.start()

        async def stop(self) -> None:
            await self._task.stop()

        async def _run(self) -> None:
            await asyncio.sleep(0)
            raise RuntimeError("Kafka refused the record")

    app = Application("test")
    app.add(Relay())
    async with asyncio.timeout(10):
        assert await app.run() == 1


async def test_a_task_that_is_stopped_is_no_death():
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    app = Application("test")
    app.add(Task("consumer", work))
    await app.start()
    await asyncio.wait_for(started.wait(), 5)
    await app.stop()
    assert ended.is_set()
    assert app._deaths == []


async def test_a_task_cannot_be_started_twice():
    task = Task("once", asyncio.Event().wait)
    await task.start()
    with pytest.raises(RuntimeError, match="twice"):
        await task.start()
    await task.stop()


DYING = """
    async def work():
        await asyncio.sleep(0.05)
        raise RuntimeError("the consumer broke")

    def build():
        logs.configure("dying")
        app = Application("dying")
        app.add(Task("consumer", work))
        return app

    lifecycle.run(build)
"""

SERVING = """
    from phantom.governance.v1 import governance_service_pb2 as pb
    from phantom_platform.rpc.server import GrpcServer
    from phantom_platform.testing.audit import MemoryAuditSink
    from phantom_platform.testing.identity import Issuer
    from phantom_platform.testing.rpc import standing_in
    from prometheus_client import CollectorRegistry

    async def login(request, context):
        print("begun", flush=True)
        await asyncio.sleep(0.5)
        return pb.LoginResponse(token=pb.Token(value="drained"))

    class Announce:
        name = "announce"
        async def start(self):
            print(server.port, flush=True)
        async def stop(self):
            pass

    def build():
        global server
        logs.configure("serving")
        app = Application("serving")
        service = standing_in("phantom.governance.v1.GovernanceService", audit=MemoryAuditSink(), Login=login)
        server = app.add(GrpcServer([service], host="127.0.0.1", port=0, verifier=Issuer().verifier,
                                    registry=CollectorRegistry(), unready=app.unready))
        app.add(Announce())
        return app

    lifecycle.run(build)
"""


@contextmanager
def process(body: str):
    head = (
        "import asyncio\nfrom phantom_platform import lifecycle\nfrom phantom_platform.lifecycle import *\n"
        "from phantom_platform.telemetry import logs\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def test_a_process_whose_task_died_exits_loudly_with_code_1():
    with process(DYING) as running:
        _, errors = running.communicate(timeout=30)
        assert running.returncode == 1
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    died = [line for line in lines if line["action"] == "task_died"]
    assert died
    assert died[0]["task"] == "consumer"
    assert "the consumer broke" in died[0]["exception"]


async def test_sigterm_lets_the_call_under_way_finish_and_exits_with_code_0():
    import grpc

    from phantom.governance.v1 import governance_service_pb2 as pb
    from phantom.governance.v1 import governance_service_pb2_grpc as stubs

    with process(SERVING) as running:
        port = int(await asyncio.to_thread(running.stdout.readline))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = stubs.GovernanceServiceStub(channel)
            call = asyncio.ensure_future(stub.Login(pb.LoginRequest(username="a", password="b"), timeout=20))
            assert await asyncio.to_thread(running.stdout.readline) == "begun\n"
            running.send_signal(signal.SIGTERM)
            assert (await call).token.value == "drained"
        assert await asyncio.to_thread(running.wait, 20) == 0


def test_sigterm_while_starting_stops_too():
    body = """
    class Slow:
        name = "slow"
        async def start(self):
            print("starting", flush=True)
            await asyncio.Event().wait()
        async def stop(self):
            pass

    def build():
        app = Application("slow")
        app.add(Slow())
        return app

    lifecycle.run(build)
    """
    with process(body) as running:
        assert running.stdout.readline() == "starting\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
