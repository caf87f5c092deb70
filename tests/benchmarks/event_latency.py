"""From a committed change in one service to its committed effect in another: latency and throughput.

One process commits events (one a transaction) and relays its outbox; another consumes them and writes a row for
each. Postgres syncs to disk as in production. Clocks are one machine's.

    python tests/benchmarks/event_latency.py [--repeats 3] [--seconds 20] [--burst-seconds 60] [--json FILE]

Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import uvloop

from phantom_contracts.events.base import Event
from phantom_contracts.topics import Topic
from phantom_platform.clock import SystemClock
from phantom_platform.kafka import Consumers, Producer, Received, Router, ensure_topics
from phantom_platform.outbox import OutboxRelay
from phantom_platform.postgres import Database, Transaction

LATENCY_RATE = 300
BURST_RATE = 1_500
KEYS = 50
CONCURRENT = 64


class Measured(Event):
    """`number` counts up from 0 within a run."""

    type: ClassVar[str] = "phantom.benchmark.EventMeasured.v1"
    number: int


@dataclass(frozen=True)
class Servers:
    kafka: str
    postgres: str
    migrations: Path


class TimedDatabase(Database):
    """Notes when each transaction that applied events was committed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.effects: dict[int, float] = {}
        self._applied: list[int] = []
        self.expected = 0
        self.is_done = asyncio.Event()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        self._applied = []
        async with super().transaction() as tx:
            yield tx
        now = time.time()
        for number in self._applied:
            self.effects[number] = now
        if len(self.effects) == self.expected:
            self.is_done.set()

    async def apply(self, tx: Transaction, received: Received[Measured]) -> None:
        await tx.execute("INSERT INTO effect VALUES ($1, $2)", received.event.number, received.id)
        self._applied.append(received.event.number)


def consume(servers: Servers, topic: str, count: int, pipe: Connection) -> None:
    """The consuming process: reports readiness, then when each effect was committed."""
    uvloop.run(_consume(servers, topic, count, pipe))


async def _consume(servers: Servers, topic: str, count: int, pipe: Connection) -> None:
    database = TimedDatabase(
        servers.postgres,
        "reader",
        migrations=servers.migrations,
        clock=SystemClock(),
        source="phantom/reader",
    )
    database.expected = count
    await database.start()
    router = Router("reader", group=topic)
    router.on(_topic(topic), Measured, database.apply)
    consumers = Consumers(router, database, servers.kafka, SystemClock())
    await consumers.start()
    await consumers.assigned.wait()
    pipe.send("ready")
    with suppress(TimeoutError):
        await asyncio.wait_for(database.is_done.wait(), 300)
    await consumers.stop()
    await database.stop()
    pipe.send(database.effects)


Times = dict[int, float]


async def produce(
    servers: Servers, topic: str, rate: int, count: int, pipe: Connection
) -> tuple[Times, Times]:
    """Commits `count` events at `rate` a second; returns when each, and when each effect, was committed."""
    database = Database(
        servers.postgres,
        "writer",
        migrations=servers.migrations,
        clock=SystemClock(),
        source="phantom/writer",
    )
    producer = Producer(servers.kafka, client_id="writer")
    relay = OutboxRelay(database, producer)
    for part in (database, producer, relay):
        await part.start()
    await asyncio.to_thread(pipe.recv)
    commits: Times = {}

    # Requests in flight at once: a server refuses more, and so would this one's pool after 10 s.
    admitted = asyncio.Semaphore(CONCURRENT)

    async def commit(number: int) -> None:
        async with admitted, database.transaction() as tx:
            await tx.execute("INSERT INTO effect VALUES ($1, '')", number)
            tx.outbox.add(_topic(topic), f"default/{number % KEYS}", Measured(number=number))
        commits[number] = time.time()

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0.001:
                await asyncio.sleep(ahead)
            group.create_task(commit(number))
    effects: Times = await asyncio.to_thread(pipe.recv)
    for part in (relay, producer, database):
        await part.stop()
    return commits, effects


def run(servers: Servers, rate: int, seconds: float) -> dict[str, float]:
    """One run: percentiles in milliseconds, and the rate from the first commit to the last effect."""
    count = int(rate * seconds)
    topic = f"benchmark.{time.time_ns()}"
    asyncio.run(ensure_topics(servers.kafka, [_topic(topic)]))
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    reader = context.Process(target=consume, args=(servers, topic, count, theirs), daemon=True)
    reader.start()
    commits, effects = uvloop.run(produce(servers, topic, rate, count, ours))
    reader.join()
    if lost := commits.keys() - effects.keys():
        raise SystemExit(f"{len(lost)} of {count} events had no effect within 300 s")
    delays = sorted((effects[number] - commits[number]) * 1000 for number in commits)
    elapsed = max(effects.values()) - min(commits.values())
    return {
        "p50": delays[len(delays) // 2],
        "p99": delays[int(len(delays) * 0.99)],
        "rate": count / elapsed,
    }


def _topic(name: str) -> Topic:
    return Topic(name, "writer", "log", (Measured,))


@contextmanager
def servers() -> Iterator[Servers]:
    """Real servers of one's own, the disk included."""
    from phantom_local.embedded.kafka import KafkaServer
    from phantom_local.embedded.postgres import PostgresServer

    with tempfile.TemporaryDirectory(prefix="phantom-bench-") as folder:
        root = Path(folder)
        (root / "migrations").mkdir()
        (root / "migrations" / "0001_pre_effect.sql").write_text(
            "CREATE TABLE effect (number bigint, event_id text)"
        )
        kafka, postgres = KafkaServer(root / "kafka"), PostgresServer(root / "postgres")
        kafka.start()
        postgres.start()
        try:
            yield Servers(kafka.bootstrap, postgres.dsn, root / "migrations")
        finally:
            postgres.stop()
            kafka.stop()


def row(measure: str, values: list[float], target: float, *, is_minimum: bool = False) -> dict[str, Any]:
    value = median(values)
    holds = value >= target if is_minimum else value <= target
    rounded = [round(each, 2) for each in (value, min(values), max(values))]
    return dict(zip(("value", "min", "max"), rounded, strict=True)) | {
        "measure": measure,
        "target": f"{'≥' if is_minimum else '≤'} {target:g}",
        "holds": holds,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--seconds", type=float, default=20.0, help="of each run at 300 events/s")
    options.add_argument(
        "--burst-seconds", type=float, default=60.0, help="of the run at 1,500 events/s; 0: none"
    )
    options.add_argument("--json", type=Path, help="write the rows there too")
    chosen = options.parse_args()
    with servers() as here:
        run(here, LATENCY_RATE, 2)  # warms up caches, connections and the broker's code
        runs = [run(here, LATENCY_RATE, chosen.seconds) for _ in range(chosen.repeats)]
        rows = [
            row(f"commit to effect at {LATENCY_RATE}/s, p50, ms", [each["p50"] for each in runs], 10),
            row(f"commit to effect at {LATENCY_RATE}/s, p99, ms", [each["p99"] for each in runs], 50),
        ]
        if chosen.burst_seconds:
            burst = run(here, BURST_RATE, chosen.burst_seconds)
            name = f"events/s, offered {BURST_RATE} for {chosen.burst_seconds:g} s"
            # The last events take their latency: 1 % of grace.
            rows.append(row(name, [burst["rate"]], BURST_RATE * 0.99, is_minimum=True))
    columns = ("measure", "value", "min", "max", "target", "holds")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(each[column]) for column in columns) + " |" for each in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    return 0 if all(each["holds"] for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
