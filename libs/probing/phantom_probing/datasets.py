"""Rows of a registered dataset: found by its URI, checked by its digest, typed by a model's schema."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import orjson

from phantom_contracts.schema import Feature, ModelSchema
from phantom_platform.errors import Invalid, NotFound, Refused, Unsupported, Violation
from phantom_probing.rows import Column, Numbers, Rows

MAX_BYTES = 256 << 20
MAX_VIOLATIONS = 20
"""Bad cells that an error names."""

FORMATS = (".parquet", ".csv", ".jsonl")

Table = dict[str, list[Any]]
"""Columns of equal length; None or an empty text where a value is missing."""


@dataclass(frozen=True)
class Dataset:
    """As it is registered."""

    name: str
    version: str
    uri: str
    digest: str  # sha256:<64 hex> of the file's bytes

    def __str__(self) -> str:
        return f"dataset {self.name} {self.version}"


@dataclass(frozen=True)
class Labelled:
    """Rows with what is right for them: class labels, or values for a regression model."""

    rows: Rows
    ids: list[str]  # [rows]
    expected: list[str] | Numbers  # [rows]
    digest: str

    def take(self, places: Sequence[int]) -> Labelled:
        """These rows, in this order."""
        if isinstance(self.expected, list):
            expected: list[str] | Numbers = [self.expected[place] for place in places]
        else:
            expected = self.expected[np.asarray(places, dtype=np.intp)]
        return Labelled(self.rows.take(places), [self.ids[place] for place in places], expected, self.digest)

    def spread(self, most: int) -> Labelled:
        """At most so many rows, evenly spread; all of them where `most` is 0."""
        if not most or self.rows.count <= most:
            return self
        return self.take([place * self.rows.count // most for place in range(most)])


def read(
    dataset: Dataset,
    schema: ModelSchema,
    expected_column: str = "",
    id_column: str = "",
    max_bytes: int = MAX_BYTES,
) -> Labelled:
    """The dataset's rows. Blocking, and in memory as a whole.

    What is right stands in `expected_column`, else in the schema's outcome field: a class label, or a value that the
    outcome's mapping names. Ids are the rows' numbers, from 1, where no column holds them. Raises Unsupported
    `dataset_uri_unsupported` and `dataset_format_unsupported`, NotFound `dataset_file_missing`, Refused
    `dataset_too_large`, Invalid `dataset_digest_mismatch`, `dataset_unreadable`, `dataset_column_missing`,
    `dataset_empty`, and `dataset_rows_invalid`, which names rows and columns.
    """
    path = path_of(dataset)
    table = _parse(dataset, path, _content(dataset, path, max_bytes))
    count = len(next(iter(table.values()), ()))
    if not count:
        raise Invalid(f"{dataset} has no rows", code="dataset_empty")
    label_column = expected_column or (schema.outcome.field if schema.outcome else "")
    _check_columns(dataset, table, schema, label_column, id_column)
    bad: list[Violation] = []
    columns = {
        feature.name: _feature(feature, table[feature.name], bad)
        for feature in schema.features
        if feature.name in table
    }
    expected = _expected(label_column, table[label_column], schema, bad)
    if bad:
        more = f" and {len(bad) - MAX_VIOLATIONS} more" if len(bad) > MAX_VIOLATIONS else ""
        said = "; ".join(f"{each.field}: {each.description}" for each in bad[:MAX_VIOLATIONS])
        raise Invalid(
            f"{dataset} does not fit the model's schema: {said}{more}",
            code="dataset_rows_invalid",
            violations=bad[:MAX_VIOLATIONS],
        )
    ids = [_text(value) for value in table[id_column]] if id_column else [str(n + 1) for n in range(count)]
    return Labelled(Rows(columns, count), ids, expected, dataset.digest)


def path_of(dataset: Dataset) -> Path:
    """Where the file is. Unsupported `dataset_uri_unsupported` for anything but files of this machine."""
    parts = urlsplit(dataset.uri)
    if dataset.uri.startswith("/"):
        return Path(dataset.uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Path(unquote(parts.path))
    raise Unsupported(
        f"{dataset} is registered at {dataset.uri!r:.200}, which cannot be read here: only file:///absolute/path or "
        "an absolute path; register a new version of it by path",
        code="dataset_uri_unsupported",
        dataset=dataset.name,
        uri=dataset.uri,
    )


def _content(dataset: Dataset, path: Path, max_bytes: int) -> bytes:
    """The file's bytes, which are then parsed: nobody can change them after the check."""
    if path.suffix.lower() not in FORMATS:
        raise Unsupported(
            f"{dataset} is a file {path.name!r}; read are {', '.join(FORMATS)}",
            code="dataset_format_unsupported",
        )
    try:
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise NotFound(
            f"{dataset} is registered at {path}, and there is no such file on the machine that evaluates",
            code="dataset_file_missing",
            path=str(path),
        ) from None
    except OSError as error:
        raise Refused(
            f"{dataset} at {path} cannot be read: {error.strerror}", code="dataset_unreadable"
        ) from error
    if len(content) > max_bytes:
        raise Refused(
            f"{dataset} at {path} is larger than {max_bytes} bytes; register a smaller sample of it",
            code="dataset_too_large",
        )
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != dataset.digest:
        raise Invalid(
            f"{dataset} is registered with {dataset.digest}, but the bytes of {path} have {found}: the file has "
            "changed, or the digest was taken of other content (its rows, an archive, its source) and not of this "
            "file; register a new version with the file itself",
            code="dataset_digest_mismatch",
            expected=dataset.digest,
            found=found,
        )
    return content


def _parse(dataset: Dataset, path: Path, content: bytes) -> Table:
    read_format: dict[str, Callable[[bytes], Table]] = {
        ".csv": _csv,
        ".jsonl": _json_lines,
        ".parquet": _parquet,
    }
    try:
        return read_format[path.suffix.lower()](content)
    except ImportError as error:
        raise Unsupported(
            f"{dataset} is a parquet file, which needs pyarrow: {error}", code="dataset_format_unsupported"
        ) from error
    except (ValueError, OSError, csv.Error) as error:  # pyarrow raises subclasses of the first two
        raise Invalid(f"{dataset} at {path} cannot be parsed: {error}", code="dataset_unreadable") from error


def _csv(content: bytes) -> Table:
    """UTF-8 with a header line."""
    lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    header = next(lines, [])
    if not header or len(set(header)) != len(header):
        raise ValueError("its first line must name every column once")
    found: list[list[str]] = []
    for row in lines:
        if row and len(row) != len(header):
            raise ValueError(f"line {lines.line_num} has {len(row)} values, the header {len(header)}")
        if row:
            found.append(row)
    return {name: [row[place] for row in found] for place, name in enumerate(header)}


def _json_lines(content: bytes) -> Table:
    found: list[dict[str, Any]] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        found.append(row)
    names = dict.fromkeys(name for row in found for name in row)
    return {name: [row.get(name) for row in found] for name in names}


def _parquet(content: bytes) -> Table:
    # Here, as it takes 40 MB of every process that imports it.
    from pyarrow import BufferReader, parquet

    table = parquet.read_table(BufferReader(content))
    if len(set(table.column_names)) != len(table.column_names):
        raise ValueError("it has two columns of one name")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _check_columns(
    dataset: Dataset, table: Table, schema: ModelSchema, label_column: str, id_column: str
) -> None:
    wanted = [feature.name for feature in schema.features if feature.required]
    missing = [name for name in wanted if name not in table]
    has = f"it has {', '.join(list(table)[:40])}"
    if missing:
        raise Invalid(
            f"{dataset} lacks columns that the model requires: {', '.join(missing[:20])}; {has}",
            code="dataset_column_missing",
            columns=missing[:20],
        )
    if not label_column:
        raise Invalid(
            f"nobody says which column of {dataset} holds what is right: the model's schema declares no outcome; "
            f"name it as expected_column; {has}",
            code="dataset_column_missing",
        )
    for name in filter(None, (label_column, id_column)):
        if name not in table:
            raise Invalid(
                f"{dataset} has no column {name!r}; {has}", code="dataset_column_missing", columns=[name]
            )


def _feature(feature: Feature, values: list[Any], bad: list[Violation]) -> Column:
    if feature.type == "string":
        if not feature.allows_missing:
            _report_missing(feature.name, values, bad, "is missing and may not be")
        return ["" if value is None else str(value) for value in values]
    numbers = _numbers(feature.name, values, bad)
    if not feature.allows_missing and np.isnan(numbers).any():
        _report_missing(feature.name, values, bad, "is missing and may not be")
    if feature.type == "int":
        _report(feature.name, values, numbers != np.floor(numbers), bad, "is no integer")
    if feature.type == "bool":
        _report(feature.name, values, (numbers != 0) & (numbers != 1), bad, "is neither true nor false")
    return numbers


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _numbers(name: str, values: list[Any], bad: list[Violation]) -> Numbers:
    """NaN where a value is missing, or is no number, which is reported."""
    try:
        return np.array(["nan" if value == "" else value for value in values], dtype=np.float64)
    except (ValueError, TypeError):
        found = np.array([_number(value) for value in values], dtype=np.float64)
    is_wrong = np.array(
        [math.isnan(number) and not _says_missing(value) for number, value in zip(found, values, strict=True)]
    )
    for place in np.flatnonzero(is_wrong):
        bad.append(_violation(name, place, values, "is no number"))
    return found


def _number(value: Any) -> float:
    words = {"true": 1.0, "false": 0.0}
    if value is None or value == "":
        return math.nan
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    try:
        return float(value)
    except (ValueError, TypeError):
        return math.nan


def _says_missing(value: Any) -> bool:
    return _is_missing(value) or (isinstance(value, str) and value.strip().lower() == "nan")


def _report(
    name: str, values: list[Any], is_wrong: npt.NDArray[np.bool_], bad: list[Violation], what: str
) -> None:
    """Of numbers: what is NaN has been judged already."""
    for place in np.flatnonzero(is_wrong):
        if not math.isnan(_number(values[place])):
            bad.append(_violation(name, place, values, what))


def _report_missing(name: str, values: list[Any], bad: list[Violation], what: str) -> None:
    for place, value in enumerate(values):
        if _says_missing(value):
            bad.append(Violation(f"row {place + 1}, column {name}", what))


def _violation(name: str, place: int | np.intp, values: list[Any], what: str) -> Violation:
    return Violation(f"row {place + 1}, column {name}", f"{str(values[place])!r:.60} {what}")


def _expected(name: str, values: list[Any], schema: ModelSchema, bad: list[Violation]) -> list[str] | Numbers:
    _report_missing(name, values, bad, "is missing: it is what the answer is checked against")
    if schema.task == "regression":
        numbers = _numbers(name, values, bad)
        _report(name, values, np.isinf(numbers), bad, "is not finite")
        return numbers
    labels = [class_label(value, schema) for value in values]
    for place, label in enumerate(labels):
        if label is None and not _says_missing(values[place]):
            what = f"is none of {', '.join(schema.class_labels)}, nor mapped to one"
            bad.append(_violation(name, place, values, what))
    return [label or "" for label in labels]


def class_label(value: Any, schema: ModelSchema) -> str | None:
    """The class that a reported value stands for: by the outcome's mapping, else by its own name; None for neither.

    1 and 0, as files write them, also stand for true and false where the outcome is a bool.
    """
    text = _text(value)
    mapping = schema.outcome.mapping if schema.outcome else {}
    candidates = [text, text.lower()]
    if schema.outcome and schema.outcome.type == "bool":
        candidates.append({"1": "true", "0": "false"}.get(text, text))
    for candidate in candidates:
        if candidate in mapping:
            return mapping[candidate]
        if candidate in schema.class_labels:
            return candidate
    return None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of integers with a gap is read as doubles
    return str(value).strip()
