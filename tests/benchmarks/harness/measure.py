"""One load on one system: what the generator found, and what every process spent meanwhile."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .load import CONNECTIONS, Client, Found, Orders
from .processes import Process, cpu_s, tree
from .system import STREAM, CannotMeasure, System, bodies_of, processes_of

HERE = Path(__file__).parents[1]
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Shape:
    """How to load: `closed` keeps `in_flight` calls under way, `stream` so many messages; `open` sends `rate`/s."""

    mode: Literal["closed", "stream", "open"] = "closed"
    in_flight: int = 32
    rows: int = 1
    seconds: float = 3.0
    warm_s: float = 0.7
    calls: int = 0
    rate: float = 0.0
    timeout_s: float = 0.0
    connections: int = CONNECTIONS
    client: Client = "light"
    # Answers other than OK are what is measured, and no reason to stop.
    may_fail: bool = False


@dataclass(frozen=True)
class Figures:
    """A load's outcome. CPU in seconds per 1,000 good calls."""

    found: Found
    cpu: dict[str, float] = field(default_factory=dict)
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.found.rate

    @property
    def cpu_all(self) -> float:
        """Of all serving processes."""
        return sum(self.cpu.values())

    def flat(self) -> dict[str, float]:
        """Column → figure, as reported."""
        found = self.found
        figures = {
            "requests/s": found.rate,
            "p50 ms": found.p50_ms,
            "p95 ms": found.p95_ms,
            "p99 ms": found.p99_ms,
            "CPU s/1000": self.cpu_all,
        }
        if len(self.cpu) > 1:
            figures |= {f"{name} CPU": value for name, value in self.cpu.items()}
        figures |= {f"{name} CPU": value for name, value in self.beside.items()}
        everything = self.cpu_all + sum(self.beside.values())
        # What all of this machine's cores could do, if they did nothing else.
        return figures | {"ceiling/s": 1000 * CORES / everything if everything else 0.0}


def orders_for(system: System, shape: Shape) -> Orders:
    """What the generator is told."""
    bodies = tuple(base64.b64encode(each).decode() for each in bodies_of(system, shape.rows))
    return Orders(
        protocol=system.protocol,
        address=system.address,
        path=STREAM if shape.mode == "stream" else system.path,
        bodies=bodies,
        headers=system.headers,
        mode=shape.mode,
        in_flight=shape.in_flight,
        seconds=shape.seconds,
        warm_s=shape.warm_s,
        calls=shape.calls,
        rate=shape.rate,
        timeout_s=shape.timeout_s,
        connections=shape.connections,
        client=shape.client,
    )


def measure(
    system: System, shape: Shape, folder: Path, beside: Mapping[str, Sequence[int]] | None = None
) -> Figures:
    """Load the system once. CannotMeasure where an answer is wrong or, unless it may, a call fails.

    `beside`: processes that run too and whose CPU is reported beside the servers' (Kafka).
    """
    with generator(orders_for(system, shape), folder) as process:
        check_first(system, process.hear(), shape)
        json.loads(process.hear())  # ready
        servers = {name: tree(pids) for name, pids in processes_of(system).items()}
        others = {name: tree(pids) for name, pids in (beside or {}).items()}
        before = {name: cpu_s(pids) for name, pids in (servers | others).items()}
        process.ask("go")
        found = Found(**json.loads(process.hear()))
        spent = {name: cpu_s(pids) - before[name] for name, pids in (servers | others).items()}
    if found.failures and not shape.may_fail:
        raise CannotMeasure(
            f"{system.name}: of {found.calls} calls failed {found.failures}, the first with {found.first_failure!r}; "
            f"the longest of the others took {found.max_ms:.0f} ms"
        )
    if not found.calls:
        raise CannotMeasure(f"{system.name} answered no call in {found.seconds:.1f} s: {found.failures}")
    per_1000 = 1000 / found.calls
    return Figures(
        found,
        {name: spent[name] * per_1000 for name in servers},
        {name: spent[name] * per_1000 for name in others} | {"generator": found.cpu_s * per_1000},
    )


@contextmanager
def generator(orders: Orders, folder: Path) -> Any:
    """The load process with its orders given."""
    process = Process([sys.executable, "-m", "harness.load"], folder / "load.log", cwd=HERE, talks=True)
    try:
        process.ask(json.dumps(asdict(orders)))
        yield process
    finally:
        process.stop(2)


def check_first(system: System, line: str, shape: Shape) -> None:
    """The first answer is right; a streamed one is unwrapped first."""
    answer = base64.b64decode(json.loads(line)["first"])
    if shape.mode == "stream":
        from inference import grpc_service_pb2 as oip

        wrapped = oip.ModelStreamInferResponse.FromString(answer)
        if wrapped.error_message:
            raise CannotMeasure(f"{system.name}: {wrapped.error_message}")
        answer = wrapped.infer_response.SerializeToString()
    system.check(answer, shape.rows)
