"""Rows of features from what people have: JSON, or CSV whose cells are all text."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from phantom_ml_studio.cli.output import USAGE, fail

Rows = list[dict[str, Any]]
_BOOLEANS = {"true": True, "false": False}


def json_rows(path: Path) -> Rows:
    """A row (an object) or a list of rows."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        fail(f"{_name(path)} is not JSON: {error}", USAGE)
    rows = content if isinstance(content, list) else [content]
    if not rows or not all(isinstance(row, dict) for row in rows):
        fail(f"{_name(path)} holds neither a row (an object) nor a list of rows", USAGE)
    return rows


def csv_rows(path: Path, content: str, texts: Collection[str]) -> Rows:
    """The rows below a header line; an empty cell is a missing value.

    A column is text where the endpoint says so (`texts`), else it is what all its cells can be read as: booleans,
    numbers, text.
    """
    reader = csv.DictReader(content.splitlines())
    names = [name for name in reader.fieldnames or () if name]
    rows = []
    for row in reader:
        if None in row or None in row.values():
            fail(f"{_name(path)}, line {reader.line_num}: not the {len(names)} cells of the header", USAGE)
        rows.append(row)
    if not rows:
        fail(f"{_name(path)} has no rows below its header", USAGE)
    columns = {name: _column([row[name] for row in rows], name in texts) for name in names}
    return [{name: columns[name][i] for name in names} for i in range(len(rows))]


def _column(cells: list[str], is_text: bool) -> list[Any]:
    given = [cell.strip() for cell in cells]
    if is_text:
        return [cell or None for cell in given]
    if all(cell == "" or cell.lower() in _BOOLEANS for cell in given):
        return [_BOOLEANS.get(cell.lower()) for cell in given]
    try:
        return [None if cell == "" else _number(cell) for cell in given]
    except ValueError:
        return [cell or None for cell in given]


def _number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_text(path: Path) -> str:
    """A file, or standard input where it is `-`."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{_name(path)}: {error}", USAGE)


def _name(path: Path) -> str:
    return "standard input" if str(path) == "-" else str(path)
