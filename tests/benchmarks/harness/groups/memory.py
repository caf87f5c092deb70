"""Memory of a gateway worker after many requests against after 10,000."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ..measure import Shape
from ..measure import measure as load
from ..processes import memory_bytes
from ..report import Row, judged
from ..report import figures as figure_rows
from ..rounds import Run, say, started
from ..stack import ours, usual_site
from ..system import CannotMeasure

GROUP = "memory"
FIRST = 10_000
STEPS = 10
IN_FLIGHT = 100


@dataclass(frozen=True)
class Sample:
    """After so many requests."""

    requests: int
    pss: int
    rss: int


def measure(run: Run) -> list[Row]:
    """One gateway, unary calls over 100 in flight, a sample each tenth of the way."""
    if run.requests <= FIRST * 2:
        raise CannotMeasure(f"memory needs more than {FIRST * 2:,} requests, not {run.requests:,}")
    samples: list[Sample] = []
    with ExitStack() as stack:
        site = usual_site(run.folder)
        stack.callback(site.stop)
        gateway = ours(site)
        stack.enter_context(started(gateway))
        done, step = 0, (run.requests - FIRST) // STEPS
        step -= step % IN_FLIGHT  # each of the callers makes as many calls
        rest = run.requests - FIRST - step * (STEPS - 1)
        for count in (FIRST, *[step] * (STEPS - 1), rest - rest % IN_FLIGHT):
            load(gateway, Shape(in_flight=IN_FLIGHT, calls=count, warm_s=0), run.folder)
            done += count
            time.sleep(2)  # batches that were open have gone to Kafka
            pids = gateway.parts()["gateway"]
            samples.append(Sample(done, memory_bytes(pids), memory_bytes(pids, "Rss")))
            say(
                f"  {done:,} requests: PSS {samples[-1].pss / 1e6:.1f} MB, RSS {samples[-1].rss / 1e6:.1f} MB"
            )
    return rows(samples)


def rows(samples: list[Sample]) -> list[Row]:
    """The ratio, and the way to it."""
    row = judged("memory", [samples[-1].pss / samples[0].pss])
    # Fewer than asked for are told as what they are.
    made = [replace(row, measure=row.measure.replace("1,000,000", f"{samples[-1].requests:,}"))]
    for each in samples:
        numbers = {"PSS MB": each.pss / 1e6, "RSS MB": each.rss / 1e6}
        made += figure_rows(GROUP, f"after {each.requests:,} requests", [numbers])
    return made
