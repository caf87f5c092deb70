"""What a prediction event costs: in the process that answers, and as CPU of the gateway with and without it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..measure import Shape
from ..report import Row, judged
from ..report import figures as figure_rows
from ..rounds import Cell, Run, measure_cells, started
from ..stack import Gateway, ours, usual_site

GROUP = "log"
EVENTS = 20_000
# Calls that a frame answers, and that share its packed block.
FRAME = 16


def measure(run: Run) -> list[Row]:
    """First alone, then in the gateway."""
    with ExitStack() as stack:
        site = usual_site(run.folder)
        stack.callback(site.stop)
        costs = [asyncio.run(event_cost(site.kafka, run.folder / f"log-{n}")) for n in range(run.rounds)]
        with_log = ours(site, name="with log")
        without = Gateway(site, "bench", ("r1", "r2"), name="without log", logs=False)
        for each in (with_log, without):
            stack.enter_context(started(each))
        shape = Shape(in_flight=32, seconds=run.seconds)
        cells = [Cell("unary, 32 in flight", each, shape) for each in (with_log, without)]
        found = measure_cells(run, cells, site.beside())
    rows = [judged("event", [each["record() µs"] for each in costs])]
    rows += figure_rows(GROUP, "in a process of its own", costs)
    for case, each in found.items():
        rows += figure_rows(GROUP, case, [one.flat() for one in each])
    pairs = zip(*(found[cell.key] for cell in cells), strict=True)
    gaps = [{"gateway CPU": one.cpu["gateway"] - other.cpu["gateway"]} for one, other in pairs]
    return rows + figure_rows(GROUP, "difference", gaps)


async def event_cost(kafka: str, folder: Path) -> dict[str, float]:
    """µs an event: within `record`, which is on the request path, and CPU in all with encoding and sending."""
    from phantom_inference_gateway.prediction_log import PredictionLog

    log = PredictionLog(kafka, folder / "spill")
    await log.start()
    key = "default/bench"
    log.set_routed({key})
    entries = entries_of(key, EVENTS)
    await asyncio.sleep(0.5)  # connected
    spent, cpu = 0.0, time.process_time()
    for begin in range(0, len(entries), FRAME):
        frame = entries[begin : begin + FRAME]
        started_at = time.perf_counter()
        for entry in frame:
            log.record(entry)
        spent += time.perf_counter() - started_at
        await asyncio.sleep(0)
    await log.stop()  # returns when Kafka has everything
    cpu = time.process_time() - cpu
    return {"record() µs": 1e6 * spent / EVENTS, "CPU with encoding and sending µs": 1e6 * cpu / EVENTS}


def entries_of(key: str, count: int) -> Sequence[object]:
    """As the gateway makes them: the calls of a frame share the block that the model server packed."""
    from phantom_inference_gateway.calls import Entry

    blocks = [os.urandom(45 * 4 * FRAME) for _ in range(count // FRAME + 1)]
    return [
        Entry(
            endpoint_key=key,
            prediction_id=os.urandom(16),
            request_id="request-1234567",
            unit=f"unit-{number % 256:03}",
            assigned_revision="bench.1",
            served_revision="bench.1",
            served_replica="r1",
            arm="bench-experiment/control",
            decision=2,
            route_version=1,
            experiment_version=2,
            status=0,
            received_us=time.time_ns() // 1000,
            parts=((blocks[number // FRAME], number % FRAME, 1, 0),),
        )
        for number in range(count)
    ]
