"""Three times as much as the model can do: what is served, what is refused and how soon.

The model is heavy: 32 rows a request through many trees, so that the model server's capacity, with one thread of two
cores, is at most 400 requests a second, and generator and refusals fit beside it. The gateway has its usual settings:
it refuses what it expects to wait for longer than a second.
"""

from __future__ import annotations

from contextlib import ExitStack

from phantom_contracts import topics

from .. import model
from ..measure import Figures, Shape
from ..measure import measure as load
from ..report import Row, judged
from ..report import figures as figure_rows
from ..rounds import Run, brief, say, started
from ..stack import Gateway, Revision, Site, route_record
from ..system import CannotMeasure

GROUP = "overload"
TREES, ROWS = 24_000, 32
MOST_CAPACITY = 400.0
OFFERED = 3.0
SECONDS = 10.0
IN_FLIGHT = 64
"""While the capacity is measured: with few, frames are small, and what the model can do depends on how they fall."""
REFUSED = "RESOURCE_EXHAUSTED"


class Heavy(Gateway):
    """The gateway before the heavy model, every request of 32 rows."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, "heavy", ("r1",))

    def check(self, answer: bytes, rows: int = 1) -> None:
        model.check(model.oip_probabilities(answer, "score"), rows, trees=TREES)


def measure(run: Run) -> list[Row]:
    """Capacity and overload, in turn."""
    capacities: list[Figures] = []
    overloads: list[Figures] = []
    with ExitStack() as stack:
        site = Site(run.folder)
        stack.callback(site.stop)
        site.start()
        # All frames in the one thread: small ones would be answered beside it, on the second core, and only while the
        # capacity is measured are there small ones.
        one_thread = {"PHANTOM_MODEL_SERVER_WORKERS": "1", "PHANTOM_MODEL_SERVER_INLINE_BYTES": "0"}
        address = site.serve("r1", "heavy.1", "1.0.0", model.file(trees=TREES), one_thread)
        site.publish(
            (topics.ROUTES, route_record("heavy", [Revision("heavy.1", "1.0.0", {"r1": address})], 1))
        )
        gateway = Heavy(site)
        stack.enter_context(started(gateway))
        for number in range(min(run.rounds, 3)):
            full = Shape(in_flight=IN_FLIGHT, rows=ROWS, seconds=max(run.seconds, 4.0))
            capacities.append(load(gateway, full, run.folder, site.beside()))
            capacity = capacities[-1].rate
            say(f"  round {number + 1}: capacity: {brief(capacities[-1])}")
            if capacity > MOST_CAPACITY:
                raise CannotMeasure(
                    f"the heavy model answers {capacity:.0f} requests/s, more than {MOST_CAPACITY}"
                )
            much = Shape(mode="open", rows=ROWS, rate=OFFERED * capacity, seconds=SECONDS, may_fail=True)
            overloads.append(load(gateway, much, run.folder, site.beside()))
            say(f"  round {number + 1}: offered {OFFERED * capacity:.0f}/s: {brief(overloads[-1])}")
            check_refusals(overloads[-1].found.failures)
    return rows(capacities, overloads)


def check_refusals(failures: dict[str, int]) -> None:
    """CannotMeasure where calls ended otherwise than as refused."""
    say(f"    not served: {failures}")
    if other := failures.keys() - {REFUSED}:
        raise CannotMeasure(
            f"under overload calls ended with {', '.join(sorted(other))} as well as {REFUSED}"
        )


def rows(capacities: list[Figures], overloads: list[Figures]) -> list[Row]:
    """Goodput, refusals, latency of what is served; against the capacity of the same round."""
    pairs = list(zip(capacities, overloads, strict=True))
    made = [
        judged("goodput", [over.rate / full.rate for full, over in pairs]),
        judged("refusal", [over.found.failed_p99_ms for over in overloads]),
        judged("overload p99", [over.found.p99_ms for over in overloads]),
    ]
    made += figure_rows(GROUP, f"capacity, {IN_FLIGHT} in flight", [each.flat() for each in capacities])
    told = [each.flat() | refusals(each) for each in overloads]
    return made + figure_rows(GROUP, "three times that, open loop", told)


def refusals(figures: Figures) -> dict[str, float]:
    """How many a second and how soon."""
    found = figures.found
    return {
        "refused/s": sum(found.failures.values()) / found.seconds,
        "refused p50 ms": found.failed_p50_ms,
        "refused p99 ms": found.failed_p99_ms,
        "refused max ms": found.failed_max_ms,
    }
