"""The comparison with *floor* and *direct*: unary at 1, 32 and 128 in flight, 32-row batches, stream."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from ..measure import Figures, Shape
from ..report import Row, judged, ratios
from ..report import figures as figure_rows
from ..rounds import Cell, Run, measure_cells, started
from ..servers import Reference
from ..stack import bare, ours, usual_site

GROUP = "serving"
GRPC_CLIENT = "unary, 32 in flight, grpc.aio client"


def measure(run: Run) -> list[Row]:
    """One site, four systems, interleaved."""
    with ExitStack() as stack:
        site = usual_site(run.folder)
        stack.callback(site.stop)
        systems = {
            "floor": Reference("floor", run.folder),
            "direct": Reference("direct", run.folder),
            "ours": ours(site),
            "off": bare(site),
        }
        for each in systems.values():
            stack.enter_context(started(each))
        cells = cells_of(run.seconds, systems)
        return rows(measure_cells(run, cells, site.beside()))


def cells_of(seconds: float, systems: dict[str, object]) -> list[Cell]:
    """Every load of a round."""
    unary = {count: Shape(in_flight=count, seconds=seconds) for count in (1, 32, 128)}
    cells = [
        Cell(f"unary, {count} in flight", systems[name], unary[count])
        for count in unary
        for name in ("floor", "direct", "ours")
    ]
    cells.append(Cell("unary, 32 in flight", systems["off"], unary[32]))
    # What the light client does to the comparison: the same with a client that costs as much as a server.
    heavy = replace(unary[32], client="grpc")
    cells += [Cell(GRPC_CLIENT, systems[name], heavy) for name in ("floor", "direct", "ours")]
    batches = Shape(in_flight=32, rows=32, seconds=seconds)
    cells += [Cell("32-row batches, 32 in flight", systems[name], batches) for name in ("direct", "ours")]
    cells.append(
        Cell("stream, 32 in flight", systems["ours"], Shape(mode="stream", in_flight=32, seconds=seconds))
    )
    return cells


def rows(found: dict[str, list[Figures]]) -> list[Row]:
    """The rows of the table, and every figure behind them. Keys are `<case>: <system>`."""

    def rate(case: str) -> Sequence[float]:
        return [each.rate for each in found[case]]

    def cpu(case: str) -> Sequence[float]:
        return [each.cpu_all for each in found[case]]

    unary, batches = "unary, 32 in flight", "32-row batches, 32 in flight"
    off = f"{unary}: ours without experiment and log"
    p50 = {
        name: [each.found.p50_ms for each in found[f"unary, 1 in flight: {name}"]]
        for name in ("ours", "direct")
    }
    pairs = {
        "floor": ratios(rate(f"{unary}: ours"), rate(f"{unary}: floor")),
        "direct 32": ratios(rate(f"{unary}: ours"), rate(f"{unary}: direct")),
        "direct 128": ratios(rate("unary, 128 in flight: ours"), rate("unary, 128 in flight: direct")),
        "cpu": ratios(cpu(f"{unary}: ours"), cpu(f"{unary}: direct")),
        "stream": ratios(rate("stream, 32 in flight: ours"), rate(f"{unary}: ours")),
        "p50": ratios(p50["ours"], p50["direct"]),
        "batch": ratios(rate(f"{batches}: ours"), rate(f"{batches}: direct")),
        "logging": ratios(rate(f"{unary}: ours"), rate(off)),
    }
    made = [judged(key, values) for key, values in pairs.items()]
    for case, each in found.items():
        made += figure_rows(GROUP, case, [one.flat() for one in each])
    return made
