"""The live view: per revision what it answered, how fast, and how right it was."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from phantom_ml_studio.values import RevisionSummary

# Without a terminal, a line this often.
LINE_EVERY_S = 5.0


@dataclass(frozen=True)
class Moment:
    """What is shown at one time."""

    elapsed_s: float
    done: int
    total: int
    weight: float
    route_version: int
    revisions: Sequence[RevisionSummary]
    note: str = ""


class View:
    """A table that repaints on a terminal, and a line every 5 s elsewhere."""

    def __init__(self) -> None:
        # Wide enough for the table also where there is no terminal to ask.
        self._console = Console(width=None if sys.stdout.isatty() else 120)
        self._live = Live(console=self._console, refresh_per_second=4) if sys.stdout.isatty() else None
        self._next_line_s = 0.0

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, moment: Moment) -> None:
        """Paint, or print a line when one is due."""
        if self._live is not None:
            self._live.update(Group(Text(_headline(moment)), table(moment)))
        elif moment.elapsed_s >= self._next_line_s:
            self._next_line_s = moment.elapsed_s + LINE_EVERY_S
            print(_headline(moment), *map(_line, moment.revisions), sep="\n    ", flush=True)


def table(moment: Moment) -> Table:
    """One row a revision."""
    columns = (
        "revision",
        "requests",
        "share",
        "p50 ms",
        "p95 ms",
        "errors",
        "labelled",
        "accuracy",
        "log loss",
    )
    rendered = Table(*columns, title="answers by revision, as the monitor counts them")
    total = sum(revision.requests for revision in moment.revisions)
    for r in moment.revisions:
        rendered.add_row(
            r.revision,
            f"{r.requests:,}",
            f"{r.requests / total:.1%}" if total else "-",
            _figure(r.latency_p50_ms, ".1f"),
            _figure(r.latency_p95_ms, ".1f"),
            _figure(r.error_rate, ".2%"),
            f"{r.labelled:,}",
            _figure(r.accuracy, ".3f"),
            _figure(r.log_loss, ".4f"),
        )
    return rendered


def _headline(m: Moment) -> str:
    rate = m.done / m.elapsed_s if m.elapsed_s else 0.0
    note = f" · {m.note}" if m.note else ""
    return (
        f"{m.elapsed_s:5.1f} s · {m.done:,}/{m.total:,} flights · {rate:,.0f}/s · "
        f"1.1.0 at {m.weight:g} % (route {m.route_version}){note}"
    )


def _line(r: RevisionSummary) -> str:
    return (
        f"{r.revision}: {r.requests:,} requests, p50 {_figure(r.latency_p50_ms, '.1f')} ms, "
        f"p95 {_figure(r.latency_p95_ms, '.1f')} ms, errors {_figure(r.error_rate, '.2%')}, "
        f"accuracy {_figure(r.accuracy, '.3f')}, log loss {_figure(r.log_loss, '.4f')}"
    )


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
