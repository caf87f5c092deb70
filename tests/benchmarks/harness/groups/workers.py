"""Two gateway workers behind one port with twice the requests in flight, against one: CPU per request."""

from __future__ import annotations

from contextlib import ExitStack

from ..measure import Shape
from ..processes import tree
from ..report import Row, judged, ratios
from ..report import figures as figure_rows
from ..rounds import Cell, Run, measure_cells, started
from ..stack import ours, usual_site
from ..system import CannotMeasure

GROUP = "workers"
# So that the kernel's choice of a worker for each connection is even enough.
CONNECTIONS = 64


def measure(run: Run) -> list[Row]:
    """Both gateways stand; only one is loaded at a time."""
    with ExitStack() as stack:
        site = usual_site(run.folder)
        stack.callback(site.stop)
        one = ours(site, name="one worker")
        two = ours(site, name="two workers", environment={"PHANTOM_GATEWAY_WORKERS": "2"})
        for each in (one, two):
            stack.enter_context(started(each))
        if len(tree(two.parts()["gateway"])) < 2:
            raise CannotMeasure("PHANTOM_GATEWAY_WORKERS=2 starts a single process")
        cells = [
            Cell("32 in flight", one, Shape(in_flight=32, seconds=run.seconds, connections=CONNECTIONS)),
            Cell("64 in flight", two, Shape(in_flight=64, seconds=run.seconds, connections=CONNECTIONS)),
        ]
        found = measure_cells(run, cells, site.beside())
    alone, together = (found[cell.key] for cell in cells)
    values = ratios([each.cpu_all for each in together], [each.cpu_all for each in alone])
    rows = [judged("workers", values)]
    for case, each in found.items():
        rows += figure_rows(GROUP, case, [one.flat() for one in each])
    return rows
