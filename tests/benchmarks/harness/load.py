"""The load generator: a process of its own that sends ready bytes and notes how long each answer took.

    python -m harness.load < conversation

It reads its orders (one JSON object, `Orders`) from stdin, makes one call and prints its answer, warms up, prints
`ready`, waits for a line, loads, and prints what it found (`Found`, JSON). Every system is loaded by the same code
over at least 16 connections; unary calls, messages on streams, or calls at a constant rate (open loop: latency counts
from the time a call was due).
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .http import HttpConnection, HttpFailure

CONNECTIONS = 16
WINDOW_S = 10.0
MAX_FAILURES = 200

Call = Callable[[bytes], Awaitable[bytes]]
# Of gRPC: `light` is wire.py's, `grpc` a grpc.aio channel.
Client = Literal["light", "grpc"]


@dataclass(frozen=True)
class Orders:
    """What to send, to whom, how and for how long."""

    protocol: Literal["grpc", "http"]
    address: str
    path: str
    bodies: tuple[str, ...]  # base64
    headers: tuple[tuple[str, str], ...] = ()
    mode: Literal["closed", "open", "stream"] = "closed"
    in_flight: int = 32
    seconds: float = 4.0
    warm_s: float = 0.7
    calls: int = 0  # closed: end after so many, whatever the time; 0: after `seconds`
    rate: float = 0.0  # open: calls a second
    timeout_s: float = 0.0  # deadline that gRPC calls carry; 0: none
    connections: int = CONNECTIONS
    client: Client = "light"


@dataclass
class Found:
    """What a load found. Latencies are of good answers, in ms; `failures` are counted by status."""

    calls: int
    seconds: float
    rate: float
    cpu_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    failures: dict[str, int]
    # What the first failure said.
    first_failure: str = ""
    # Good answers in all, the first call and the warm-up included.
    answered: int = 0
    # Of calls that failed: how long until they were told so.
    failed_p50_ms: float = 0.0
    failed_p99_ms: float = 0.0
    failed_max_ms: float = 0.0
    # p99 of each 10 s of an open load, by the time the calls were due.
    windows_p99_ms: list[float] = field(default_factory=list)


class Ledger:
    """When each call was due, how long it took, what failed."""

    def __init__(self) -> None:
        self.due, self.took, self.failed = array("d"), array("d"), array("d")
        self.failures: Counter[str] = Counter()
        self.first_failure = ""

    def fail(self, error: Exception | str, took: float) -> None:
        """A call that was not answered well, after so many seconds."""
        self.first_failure = self.first_failure or str(error)[:500]
        self.failures[status_of(error) if isinstance(error, Exception) else error] += 1
        self.failed.append(took)

    def found(self, seconds: float, cpu_s: float) -> Found:
        """The summary. Percentiles of nothing are 0."""
        good, bad = sorted(self.took), sorted(self.failed)
        return Found(
            calls=len(good),
            seconds=seconds,
            rate=len(good) / seconds,
            cpu_s=cpu_s,
            p50_ms=percentile_ms(good, 0.50),
            p95_ms=percentile_ms(good, 0.95),
            p99_ms=percentile_ms(good, 0.99),
            max_ms=percentile_ms(good, 1.0),
            failures=dict(self.failures),
            first_failure=self.first_failure,
            failed_p50_ms=percentile_ms(bad, 0.50),
            failed_p99_ms=percentile_ms(bad, 0.99),
            failed_max_ms=percentile_ms(bad, 1.0),
            windows_p99_ms=self._windows(),
        )

    def _windows(self) -> list[float]:
        if not self.due:
            return []
        start, windows = min(self.due), dict[int, list[float]]()
        for due, took in zip(self.due, self.took, strict=True):
            windows.setdefault(int((due - start) / WINDOW_S), []).append(took)
        return [percentile_ms(sorted(windows[number]), 0.99) for number in sorted(windows)]


def percentile_ms(ordered: list[float], share: float) -> float:
    """Of ascending seconds, in ms."""
    return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Generator:
    """Loads one system as ordered."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.bodies = [base64.b64decode(each) for each in orders.bodies]
        self.ledger = Ledger()
        self._answered = 0

    async def connect(self) -> None:
        """Open the connections."""
        if self.orders.protocol == "grpc":
            self._channels = await grpc_channels(self.orders)
            self._calls = [self._grpc_call(channel) for channel in self._channels]
        else:
            count = max(self.orders.connections, self.orders.in_flight)
            self._calls = [(await self._http_connection()).post for _ in range(count)]

    async def _http_connection(self) -> HttpConnection:
        return await HttpConnection.open(self.orders.address, self.orders.path, self.orders.headers)

    def _grpc_call(self, channel: Any) -> Call:
        method = channel.unary_unary(self.orders.path)
        headers, timeout = self.orders.headers or None, self.orders.timeout_s or None
        if headers is None and timeout is None:
            return method
        return lambda body: method(body, timeout=timeout, metadata=headers)

    async def first(self) -> bytes:
        """One call's answer."""
        self._answered += 1
        if self.orders.mode != "stream":
            return await self._calls[0](self.bodies[0])
        stream = self._channels[0].stream_stream(self.orders.path)()
        await stream.write(self.bodies[0])
        answer: bytes = await stream.read()
        await stream.done_writing()
        return answer

    async def run(self, seconds: float, calls: int = 0) -> Found:
        """Load for so long, or for so many calls."""
        self.ledger = Ledger()
        until = time.perf_counter() + seconds if not calls else float("inf")
        cpu, started = time.process_time(), time.perf_counter()
        match self.orders.mode:
            case "closed":
                share = calls // self.orders.in_flight
                await asyncio.gather(*(self._worker(n, until, share) for n in range(self.orders.in_flight)))
            case "stream":
                await asyncio.gather(*(self._stream(n, until) for n in range(self.orders.connections)))
            case "open":
                await self._open(started, seconds)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        self._answered += len(self.ledger.took)
        found = self.ledger.found(seconds, cpu)
        found.answered = self._answered
        return found

    async def _worker(self, number: int, until: float, count: int) -> None:
        call, clock, took = self._calls[number % len(self._calls)], time.perf_counter, self.ledger.took
        bodies, place = self.bodies, number
        while clock() < until and self.ledger.failures.total() < MAX_FAILURES:
            body = bodies[place % len(bodies)]
            place += 1
            started = clock()
            try:
                await call(body)
            except Exception as error:
                self.ledger.fail(error, clock() - started)
            else:
                took.append(clock() - started)
            if count and (count := count - 1) == 0:
                return

    async def _stream(self, number: int, until: float) -> None:
        """Several messages under way on one stream. Answers to one stream count as in order of their requests."""
        depth = max(1, self.orders.in_flight // self.orders.connections)
        stream = self._channels[number].stream_stream(self.orders.path)(metadata=self.orders.headers or None)
        clock, sent, place = time.perf_counter, list[float](), number
        while True:
            while len(sent) < depth and clock() < until:
                sent.append(clock())
                place += 1
                await stream.write(self.bodies[place % len(self.bodies)])
            if not sent:
                break
            answer = await stream.read()
            now = clock()
            if not isinstance(answer, bytes):
                self.ledger.fail(f"stream ended: {await stream.code()}", now - sent[0])
                return
            if answer[:1] == b"\x12":  # infer_response comes first where there is no error_message
                self.ledger.took.append(now - sent.pop(0))
            else:
                self.ledger.fail("error_message", now - sent.pop(0))
        await stream.done_writing()

    async def _open(self, started: float, seconds: float) -> None:
        number, total, rate = 0, int(seconds * self.orders.rate), self.orders.rate
        under_way: set[asyncio.Task[None]] = set()
        while number < total:
            due = started + number / rate
            ahead = due - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
                continue
            task = asyncio.ensure_future(self._one(number, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
        if under_way:
            await asyncio.wait(under_way)

    async def _one(self, number: int, due: float) -> None:
        try:
            await self._calls[number % len(self._calls)](self.bodies[number % len(self.bodies)])
        except Exception as error:
            self.ledger.fail(error, time.perf_counter() - due)
        else:
            self.ledger.due.append(due)
            self.ledger.took.append(time.perf_counter() - due)


async def grpc_channels(orders: Orders) -> list[Any]:
    """As many connections as channels: without a pool of its own each, all of grpc.aio's would share one."""
    if orders.client == "light":
        from .wire import WireChannel

        return list(
            await asyncio.gather(*(WireChannel.open(orders.address) for _ in range(orders.connections)))
        )
    import grpc

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(orders.address, options=options) for _ in range(orders.connections)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
    return channels


def status_of(error: Exception) -> str:
    """gRPC's or HTTP's status, or the kind of error."""
    if isinstance(error, HttpFailure):
        return str(error.status)
    code = getattr(error, "code", None)
    return str(code().name) if callable(code) else type(error).__name__


async def converse() -> None:
    """Orders in, answers out."""
    orders = Orders(**json.loads(sys.stdin.readline()))
    generator = Generator(orders)
    await generator.connect()
    say({"first": base64.b64encode(await generator.first()).decode()})
    if orders.warm_s:
        await generator.run(orders.warm_s)
    gc.collect()
    gc.freeze()
    gc.set_threshold(
        100_000, 50, 100
    )  # a full collection in mid-load would be counted as the server's latency
    say({"ready": True})
    await asyncio.to_thread(sys.stdin.readline)
    say(asdict(await generator.run(orders.seconds, orders.calls)))


def say(what: dict[str, Any]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    uvloop.run(converse())
