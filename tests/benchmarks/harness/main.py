"""`make bench`: the groups, one after another, and their rows in one table."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import conditions, report
from .groups import log, memory, overload, peers, scale, scripts, serving, soak, workers
from .rounds import Run, say
from .system import CannotMeasure

HERE = Path(__file__).parents[1]
GROUPS: dict[str, Callable[[Run], list[report.Row]]] = {
    "serving": serving.measure,
    "workers": workers.measure,
    "log": log.measure,
    "scale": scale.measure,
    "overload": overload.measure,
    "events": scripts.events,
    "routes": scripts.routes,
    "peers": peers.measure,
    "memory": memory.measure,
    "soak": soak.measure,
}
# Only where asked for: minutes more, or foreign software.
ON_DEMAND = ("peers", "memory", "soak")


def main(arguments: list[str]) -> int:
    """0 where everything that was asked for could be measured."""
    # A terminated run ends its children as one that is interrupted does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parse(arguments)
    old = report.load(options.json)
    rows, failures, told = old, dict[str, str](), conditions.conditions()
    for group in options.groups:
        say(f"{group}:")
        try:
            found = measure(group, options, failures)
        except CannotMeasure as error:
            lines = str(error).splitlines() or [""]
            failures[group] = lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"
            say(f"  cannot be measured: {error}")
            continue
        stamped = report.stamped(found, conditions.now(), conditions.commit())
        rows = report.merged(rows, stamped, [group])
        report.save(options.json, rows)
    report.save(options.json, rows)
    options.json.with_suffix(".md").write_text(report.document(rows, told, failures))
    sys.stdout.write(report.table(rows) + "\n")
    for group, why in failures.items():
        sys.stdout.write(f"not measured: {group}: {why}\n")
    return 1 if failures else 0


def measure(group: str, options: argparse.Namespace, failures: dict[str, str]) -> list[report.Row]:
    """One group in a folder of its own, which is gone afterwards. What it left out is added to `failures`."""
    with tempfile.TemporaryDirectory(prefix="phantom-bench-") as folder:
        run = Run(
            Path(folder), options.rounds, options.seconds, options.requests, options.soak_seconds, failures
        )
        return GROUPS[group](run)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options; `groups` is what to measure."""
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    usual = [name for name in GROUPS if name not in ON_DEMAND]
    parser.add_argument("--only", help=f"groups, separated by commas: {', '.join(GROUPS)}")
    parser.add_argument("--peers", action="store_true", help="the peers too, each in its own environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each load")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the memory group")
    parser.add_argument("--soak-seconds", type=float, default=600.0)
    parser.add_argument(
        "--json", type=Path, default=HERE / "report.json", help="report.md is written beside it"
    )
    options = parser.parse_args(arguments)
    options.groups = options.only.split(",") if options.only else usual + ["peers"] * options.peers
    if unknown := set(options.groups) - GROUPS.keys():
        parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    return options
