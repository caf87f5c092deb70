"""Other serving systems on the same work, each in an environment of its own, interleaved with ours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from ..measure import Figures, Shape
from ..report import Row, judged, ratios
from ..report import figures as figure_rows
from ..rounds import Cell, Run, measure_cells, say, started
from ..stack import ours, usual_site
from ..system import CannotMeasure, System

GROUP = "peers"
ENVOY = "envoy"
CASE = "unary, 32 in flight"


def measure(run: Run) -> list[Row]:
    """Ours and every peer that starts. CannotMeasure, after all the others, names those that do not."""
    from peers.systems import all_peers  # beside `harness`, and only where it is asked for

    with ExitStack() as stack:
        site = usual_site(run.folder)
        stack.callback(site.stop)
        mine = ours(site)
        stack.enter_context(started(mine))
        systems: list[System] = [mine]
        for peer in all_peers(run.folder):
            try:
                systems.append(stack.enter_context(started(peer)))
                say(f"  {peer.name} is up")
            except CannotMeasure as error:
                say(f"  {peer.name} cannot be measured: {error}")
                run.missing[peer.name] = str(error)
        cells = [
            Cell(f"unary, {count} in flight", each, Shape(in_flight=count, seconds=run.seconds))
            for count in (32, 1)
            for each in systems
        ]
        found = measure_cells(run, cells, site.beside(), pauses=True)
    return rows(found, [each.name for each in systems[1:]])


def rows(found: dict[str, list[Figures]], names: Sequence[str]) -> list[Row]:
    """Ours against Envoy, and against whichever Python server had the best median rate."""
    rates = {name: [each.rate for each in found[f"{CASE}: {name}"]] for name in ("ours", *names)}
    python = {name: rates[name] for name in names if name != ENVOY}
    made = []
    if python:
        best = max(python, key=lambda name: statistics.median(python[name]))
        made.append(judged("peer", ratios(rates["ours"], rates[best])))
    if ENVOY in rates:
        made.append(judged("envoy", ratios(rates["ours"], rates[ENVOY])))
    for case, each in found.items():
        made += figure_rows(GROUP, case, [one.flat() for one in each])
    return made
