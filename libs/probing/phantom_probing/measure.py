"""How fast a model answers: latency of one call at a time, and calls a second with many in flight."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phantom_platform.errors import Invalid
from phantom_probing.client import Caller, Client
from phantom_probing.rows import Rows

MAX_BODIES = 256
"""Different requests that a measurement goes round in."""

QUANTILES_FROM = 73
"""Below so many calls no p95 is stated: fewer do not reach beyond it."""


@dataclass(frozen=True)
class Latency:
    """Of single rows, one call in flight, after warm-up; ms."""

    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float


@dataclass(frozen=True)
class Throughput:
    """Answered calls of one row, many in flight, after warm-up."""

    requests_per_s: float
    requests: int
    seconds: float
    in_flight: int
    p95_ms: float


async def latency(
    caller: Caller, requests: Sequence[bytes], calls: int = 1000, warm_up: int = 100
) -> Latency:
    """Going round in the requests. Raises the first error that a call meets: figures of a server that fails would mean
    nothing.
    """
    if calls < QUANTILES_FROM:
        raise Invalid(
            f"{calls} calls say nothing of a p95; measure at least {QUANTILES_FROM}", code="too_few_calls"
        )
    bodies = _for_ever(requests)
    for body in itertools.islice(bodies, warm_up):
        await caller.call(body)
    found = [(await caller.timed(body))[1] for body in itertools.islice(bodies, calls)]
    return latency_of(np.array(found))


async def throughput(
    caller: Caller,
    requests: Sequence[bytes],
    in_flight: int = 32,
    duration_s: float = 10.0,
    warm_up_s: float = 2.0,
) -> Throughput:
    """Going round in the requests. Raises the first error that a call meets."""
    bodies = _for_ever(requests)
    begin = time.perf_counter() + warm_up_s
    end = begin + duration_s
    found: list[float] = []

    async def keep_calling() -> None:
        while time.perf_counter() < end:
            _, took_ms = await caller.timed(next(bodies))
            if begin <= time.perf_counter() < end:
                found.append(took_ms)

    async with asyncio.timeout(warm_up_s + duration_s + 60):
        await _all(keep_calling() for _ in range(in_flight))
    p95_ms = quantile(np.array(found), 0.95) if found else float("nan")
    return Throughput(len(found) / duration_s, len(found), duration_s, in_flight, p95_ms)


def latency_of(found: npt.NDArray[np.float64]) -> Latency:
    """The figures of these latencies, ms; at least one."""
    return Latency(
        len(found), quantile(found, 0.5), quantile(found, 0.95), quantile(found, 0.99), float(found.mean())
    )


def quantile(values: npt.NDArray[np.float64], q: float) -> float:
    """The lower-rank sample quantile, as everywhere in the platform."""
    return float(np.quantile(values, q, method="lower"))


def single_rows(client: Client, rows: Rows, most: int = MAX_BODIES) -> list[bytes]:
    """Requests of one row each, evenly spread over the rows."""
    count = min(rows.count, most)
    places = [number * rows.count // count for number in range(count)]
    return [client.request(rows.part(place, place + 1)) for place in places]


def _for_ever(requests: Sequence[bytes]) -> Iterator[bytes]:
    if not requests:
        raise Invalid("there is no row to measure with", code="no_rows")
    return itertools.cycle(requests)


async def _all(tasks: Iterable[Coroutine[None, None, None]]) -> None:
    """All of them; the first error ends the others and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
