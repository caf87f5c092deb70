"""Ten minutes at 80 % of capacity: memory, latency and the log hold still.

The floor is loaded alongside at a few calls a second, so that what the machine does shows in its p99 too.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from .. import events
from ..measure import Figures, Shape
from ..measure import measure as load
from ..processes import memory_bytes
from ..report import Row, judged
from ..report import figures as figure_rows
from ..rounds import Run, brief, say, started
from ..servers import Reference
from ..stack import Gateway, Site, ours, usual_site

GROUP = "soak"
SHARE = 0.8
FLOOR_RATE = 50.0
SAMPLE_S = 10.0
LONG_S = 600.0
# Closed loops of this length, the median of three: capacity as the open loop can use it.
CAPACITY_S = 4.0


def measure(run: Run) -> list[Row]:
    """Find the capacity, load for long, count the events."""
    with ExitStack() as stack:
        site = usual_site(run.folder)
        stack.callback(site.stop)
        gateway, floor = ours(site), Reference("floor", run.folder)
        stack.enter_context(started(floor))
        with started(gateway):
            short = Shape(in_flight=32, seconds=CAPACITY_S)
            before = [load(gateway, short, run.folder) for _ in range(3)]
            capacity = statistics.median(each.rate for each in before)
            say(f"  capacity {capacity:.0f}/s, load {SHARE * capacity:.0f}/s for {run.soak_s:g} s")
            mine, alongside, memory = soak(run, site, gateway, floor, SHARE * capacity)
        # The gateway has stopped: everything it logged is in Kafka.
        found = events.read(site.kafka)
    answered = sum(each.found.answered for each in (*before, mine))
    lost = answered - len(found.seen)
    say(f"  {answered} answers, {len(found.seen)} events, {found.doubled} doubled")
    made = rows(mine, alongside, memory, abs(lost) + found.doubled)
    if run.soak_s >= LONG_S:
        return made
    short = f"soak of {run.soak_s:g} s:"  # told as what it is
    return [replace(each, measure=each.measure.replace("soak:", short)) for each in made]


def soak(
    run: Run, site: Site, gateway: Gateway, floor: Reference, rate: float
) -> tuple[Figures, Figures, list[float]]:
    """Ours and the floor at once; the gateway's PSS every 10 s, MB."""
    memory: list[float] = []
    folders = [run.folder / name for name in ("ours", "floor")]
    with ThreadPoolExecutor(2) as pool:
        # Threads that only wait for their generator: the processes die with them (see Process).
        futures = [
            pool.submit(
                load, system, Shape(mode="open", rate=each, seconds=run.soak_s), folder, site.beside()
            )
            for system, each, folder in zip((gateway, floor), (rate, FLOOR_RATE), folders, strict=True)
        ]
        until = time.monotonic() + run.soak_s
        while time.monotonic() < until and not any(each.done() for each in futures):
            time.sleep(min(SAMPLE_S, run.soak_s / 12))
            memory.append(memory_bytes(gateway.parts()["gateway"]) / 1e6)
        mine, alongside = (each.result() for each in futures)
    say(f"  {brief(mine)}")
    return mine, alongside, memory


def rows(mine: Figures, alongside: Figures, memory: list[float], wrong: int) -> list[Row]:
    """Thirds against each other."""
    growth = growth_of(mine.found.windows_p99_ms)
    # The first third is warm-up of caches and arenas; what grows after it is a leak.
    made = [
        judged("soak memory", [statistics.median(memory[-3:]) / thirds(memory)[0][-1]]),
        judged("soak p99", [growth]),
        judged("soak events", [float(wrong)]),
    ]
    floor_growth = growth_of(alongside.found.windows_p99_ms)
    told = {"p99 growth": growth, "PSS first MB": memory[0], "PSS last MB": memory[-1]}
    made += figure_rows(GROUP, "ours, open loop at 80 % of capacity", [mine.flat() | told])
    return made + figure_rows(
        GROUP, "floor alongside, 50/s", [alongside.flat() | {"p99 growth": floor_growth}]
    )


def growth_of(windows: list[float]) -> float:
    """Median of the last third of 10-s values ÷ that of the first."""
    first, _, last = thirds(windows)
    return statistics.median(last) / statistics.median(first)


def thirds(values: list[float]) -> tuple[list[float], list[float], list[float]]:
    """First, middle and last; each has at least one value where there are three."""
    size = max(1, len(values) // 3)
    return values[:size], values[size:-size], values[-size:]
