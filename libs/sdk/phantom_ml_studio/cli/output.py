"""How commands speak: tables for people, JSON for programs, one table of exit codes."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer

OK, FAILED, USAGE, PENDING, LOGIN, REFUSED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130


class Format(enum.StrEnum):
    """What stdout carries."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="table, or json for programs")]


def say(text: str) -> None:
    """A word to the person, on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def show(items: Any, columns: Sequence[str] | Mapping[str, Callable[[Any], Any]], output: Format) -> None:
    """One value, or a list of them: whole as JSON, or these columns as a table (one value: name and value a line)."""
    if output is Format.JSON:
        print(json.dumps(plain(items), indent=2))  # noqa: T201
        return
    getters = columns if isinstance(columns, Mapping) else {c: _attribute(c) for c in columns}
    if isinstance(items, list):
        _table([[_cell(get(item)) for get in getters.values()] for item in items], list(getters))
    else:
        width = max(len(name) for name in getters)
        for name, get in getters.items():
            print(f"{name:<{width}}  {_cell(get(items))}")  # noqa: T201


def show_line(item: Any) -> None:
    """One value as JSON on a line of its own, at once: for what is followed."""
    print(json.dumps(plain(item)), flush=True)  # noqa: T201


def plain(value: Any) -> Any:
    """A value as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say what is wrong and exit."""
    say(f"error: {message}")
    raise typer.Exit(code)


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda item: item[name] if isinstance(item, Mapping) else getattr(item, name)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_cell(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(v) for v in value) or "-"
    return str(value) if value != "" else "-"


def _table(rows: list[list[str]], names: list[str]) -> None:
    widths = [max(len(r[i]) for r in [names, *rows]) for i in range(len(names))]
    for row in [[n.upper() for n in names], *rows]:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())  # noqa: T201
