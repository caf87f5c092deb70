"""Rows: what was measured, what it should be, whether it is; kept in report.json and shown in report.md.

report.json is a list of `{measure, value, min, max, target, holds}`, each with its `group` and the `date` and `commit`
it was measured at. Rows without a target are figures behind the others: they also carry `case` and `figure`, of which
report.md makes a table a group. A run replaces the rows of the groups that it measured and keeps the others.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .targets import TARGETS, Target


@dataclass(frozen=True)
class Row:
    """One line. `value` is a median; None where it was not measured yet. `holds` is None where nothing is asked."""

    measure: str
    value: float | None
    min: float | None
    max: float | None
    target: str = ""
    holds: bool | None = None
    group: str = ""
    case: str = ""
    figure: str = ""
    date: str = ""
    commit: str = ""

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Row:
        """From JSON; keys that are not known are left out, so that scripts may tell more."""
        return cls(**{name: told[name] for name in cls.__dataclass_fields__ if name in told})


def judged(key: str, values: Sequence[float]) -> Row:
    """The row of a target: median, extremes and verdict."""
    target = TARGETS[key]
    value = statistics.median(values)
    low, high = (round(each, target.digits) for each in (min(values), max(values)))
    return Row(
        target.measure, round(value, target.digits), low, high, target.text, target.holds(value), target.group
    )


def figures(group: str, case: str, rounds: Sequence[Mapping[str, float]]) -> list[Row]:
    """One row a figure of a case, over its rounds."""
    rows = []
    for figure in rounds[0]:
        values = [each[figure] for each in rounds]
        numbers = [round(each, 4) for each in (statistics.median(values), min(values), max(values))]
        rows.append(Row(f"{group}: {case}: {figure}", *numbers, group=group, case=case, figure=figure))
    return rows


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each round's pair: what the machine did in that round concerns both."""
    return [one / other for one, other in zip(above, below, strict=True)]


def merged(old: Iterable[Row], new: Iterable[Row], groups: Iterable[str]) -> list[Row]:
    """The old rows but those of `groups`, and the new ones."""
    gone = set(groups)
    return [row for row in old if row.group not in gone] + list(new)


def stamped(rows: Iterable[Row], date: str, commit: str) -> list[Row]:
    """Rows with when and of what they were measured."""
    return [replace(row, date=date, commit=commit) for row in rows]


def complete(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a target: first every one of `TARGETS`, measured or not, then those of other scripts."""
    known = {row.measure: row for row in rows if row.target}
    first = [
        known.pop(target.measure, Row(target.measure, None, None, None, target.text, None, target.group))
        for target in TARGETS.values()
    ]
    return first + list(known.values())


def load(path: Path) -> list[Row]:
    """The rows of an earlier run; none where there is no file."""
    return [Row.read(each) for each in json.loads(path.read_text())] if path.exists() else []


def save(path: Path, rows: Sequence[Row]) -> None:
    """The table first, then the figures behind it."""
    ordered = complete(rows) + [row for row in rows if not row.target]
    optional = ("group", "case", "figure", "date", "commit")
    path.parent.mkdir(parents=True, exist_ok=True)
    told = [{k: v for k, v in asdict(row).items() if v or k not in optional} for row in ordered]
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


# -- as text -------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The rows with a target, as Markdown."""
    lines = ["| measure | value | min | max | target | holds | measured |", "|---|---|---|---|---|---|---|"]
    for row in complete(rows):
        cells = [row.measure, *map(number, (row.value, row.min, row.max)), row.target]
        holds = {True: "yes", False: "**no**", None: "–"}[row.holds]
        lines.append(f"| {' | '.join([*cells, holds, row.date[:10] or '–'])} |")
    return "\n".join(lines)


def details(rows: Sequence[Row], group: str) -> str:
    """The figures of one group: a line a case, a column a figure, each `median (min to max)`."""
    mine = [row for row in rows if row.group == group and row.case]
    names = list(dict.fromkeys(row.figure for row in mine))
    cases: dict[str, dict[str, Row]] = {}
    for row in mine:
        cases.setdefault(row.case, {})[row.figure] = row
    lines = [f"| {group} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for case, found in cases.items():
        lines.append(f"| {case} | {' | '.join(_spread(found.get(name)) for name in names)} |")
    return "\n".join(lines)


def _spread(row: Row | None) -> str:
    if row is None:
        return ""
    if row.min == row.max:
        return number(row.value)
    return f"{number(row.value)} ({number(row.min)}–{number(row.max)})"


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def document(rows: Sequence[Row], conditions: Mapping[str, str], failures: Mapping[str, str]) -> str:
    """report.md."""
    parts = ["# What serving costs\n\nMade by `make bench`; how to read and repeat it: [README](README.md)."]
    parts.append("\n".join(f"- {what}: {said}" for what, said in conditions.items()))
    parts.append(table(rows))
    if failures:
        parts.append(
            "Not measured in the last run:\n" + "\n".join(f"- {k}: {v}" for k, v in failures.items())
        )
    parts.append("## Groups\n\n" + groups_table(rows))
    for group in dict.fromkeys(row.group for row in rows if row.case):
        parts.append(f"## {group}\n\n{details(rows, group)}")
    return "\n\n".join(parts) + "\n"


def groups_table(rows: Sequence[Row]) -> str:
    """Which groups the report holds and when each was measured."""
    lines = ["| group | measured | commit |", "|---|---|---|"]
    seen = dict.fromkeys((row.group, row.date, row.commit) for row in rows if row.value is not None)
    return "\n".join(lines + [f"| {' | '.join(each)} |" for each in seen])


__all__ = ["Row", "Target", "complete", "document", "figures", "judged", "load", "merged", "ratios", "save"]
