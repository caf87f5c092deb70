"""Measurements that are scripts of their own: each prints its rows and writes them to a file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ..report import Row
from ..rounds import Run, say
from ..system import CannotMeasure

HERE = Path(__file__).parents[2]


def events(run: Run) -> list[Row]:
    """From a committed change in one service to its effect in another."""
    return _rows_of("events", ["event_latency.py"], run)


def routes(run: Run) -> list[Row]:
    """From a committed route to the first answer that carries it."""
    return _rows_of("routes", ["route_change.py"], run)


def _rows_of(group: str, command: list[str], run: Run) -> list[Row]:
    told = run.folder / f"{group}.json"
    argv = [sys.executable, str(HERE / command[0]), *command[1:], "--json", str(told)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    say(done.stdout)
    # 1 with rows: a target was missed, which is a result.
    if not told.exists():
        raise CannotMeasure(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return [replace(Row.read(each), group=group) for each in json.loads(told.read_text())]
