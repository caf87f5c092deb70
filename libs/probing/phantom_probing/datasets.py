"""Rows of a registered dataset: found by its URI, checked by its digest, typed by a model's schema."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import orjson
import pandas as pd

from phantom_contracts.schema import Feature, ModelSchema
from phantom_platform.errors import Invalid, NotFound, Refused, Unsupported, Violation
from phantom_probing.rows import Column, Numbers, Rows

MAX_BYTES = 1 << 30
MAX_VIOLATIONS = 20
"""Bad cells that an error names."""

FORMATS = (".parquet", ".csv", ".jsonl")


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
    if not len(table):
        raise Invalid(f"{dataset} has no rows", code="dataset_empty")
    label_column = expected_column or (schema.outcome.field if schema.outcome else "")
    _check_columns(dataset, table, schema, label_column, id_column)
    bad: list[Violation] = []
    columns = {
        feature.name: _feature(table[feature.name], feature, bad)
        for feature in schema.features
        if feature.name in table
    }
    expected = _expected(table[label_column], schema, bad)
    if bad:
        more = f" and {len(bad) - MAX_VIOLATIONS} more" if len(bad) > MAX_VIOLATIONS else ""
        said = "; ".join(f"{each.field}: {each.description}" for each in bad[:MAX_VIOLATIONS])
        raise Invalid(
            f"{dataset} does not fit the model's schema: {said}{more}",
            code="dataset_rows_invalid",
            violations=bad[:MAX_VIOLATIONS],
        )
    ids = table[id_column].astype(str).tolist() if id_column else [str(n + 1) for n in range(len(table))]
    return Labelled(Rows(columns, len(table)), ids, expected, dataset.digest)


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


def _parse(dataset: Dataset, path: Path, content: bytes) -> pd.DataFrame:
    kind = path.suffix.lower()
    try:
        if kind == ".csv":
            return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        if kind == ".jsonl":
            return _json_lines(content)
        return pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except ImportError as error:
        raise Unsupported(
            f"{dataset} is a parquet file, which needs pyarrow: {error}", code="dataset_format_unsupported"
        ) from error
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsers raise subclasses of these
        raise Invalid(f"{dataset} at {path} cannot be parsed: {error}", code="dataset_unreadable") from error


def _json_lines(content: bytes) -> pd.DataFrame:
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
    return pd.DataFrame.from_records(found).astype(object) if found else pd.DataFrame()


def _check_columns(
    dataset: Dataset, table: pd.DataFrame, schema: ModelSchema, label_column: str, id_column: str
) -> None:
    wanted = [feature.name for feature in schema.features if feature.required]
    missing = [name for name in wanted if name not in table]
    has = f"it has {', '.join(map(str, list(table.columns)[:40]))}"
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


def _feature(series: pd.Series, feature: Feature, bad: list[Violation]) -> Column:
    missing = _missing(series)
    if not feature.allows_missing:
        _report(bad, series, missing.to_numpy(), "is missing and may not be")
    if feature.type == "string":
        return ["" if gone else str(value) for value, gone in zip(series, missing, strict=True)]
    numbers = _numbers(series, missing)
    is_wrong = np.isnan(numbers) & ~missing.to_numpy() & ~_says_nan(series)
    _report(bad, series, is_wrong, "is no number")
    if feature.type in ("int", "bool"):
        good = numbers[~np.isnan(numbers)]
        if feature.type == "int" and not np.equal(good, np.floor(good)).all():
            _report(bad, series, numbers != np.floor(numbers), "is no integer", numbers)
        if feature.type == "bool" and not np.isin(good, (0.0, 1.0)).all():
            _report(bad, series, ~np.isin(numbers, (0.0, 1.0)), "is neither true nor false", numbers)
    return numbers


def _missing(series: pd.Series) -> pd.Series:
    return series.isna() | (series.astype(str) == "")


def _says_nan(series: pd.Series) -> np.ndarray:
    return np.asarray(series.astype(str).str.strip().str.lower() == "nan")


def _numbers(series: pd.Series, missing: pd.Series) -> Numbers:
    """NaN where missing or no number."""
    if pd.api.types.is_numeric_dtype(series.dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    words = {"true": 1.0, "false": 0.0}
    texts = series.astype(str).str.strip().str.lower()
    found = pd.to_numeric(texts.map(lambda text: words.get(text, text)), errors="coerce")
    return np.where(missing, np.nan, found.to_numpy(dtype=np.float64, na_value=np.nan))


def _report(
    bad: list[Violation], series: pd.Series, is_wrong: np.ndarray, what: str, numbers: Numbers | None = None
) -> None:
    if numbers is not None:
        is_wrong = is_wrong & ~np.isnan(numbers)
    for place in np.flatnonzero(is_wrong):
        value = series.iloc[place]
        shown = "" if what.startswith("is missing") else f"{str(value)!r:.60} "
        bad.append(Violation(f"row {place + 1}, column {series.name}", f"{shown}{what}"))


def _expected(series: pd.Series, schema: ModelSchema, bad: list[Violation]) -> list[str] | Numbers:
    missing = _missing(series)
    _report(bad, series, missing.to_numpy(), "is missing: it is what the answer is checked against")
    if schema.task == "regression":
        numbers = _numbers(series, missing)
        _report(bad, series, ~np.isfinite(numbers) & ~missing.to_numpy(), "is no number")
        return numbers
    labels = [
        None if gone else class_label(value, schema) for value, gone in zip(series, missing, strict=True)
    ]
    is_wrong = np.array([label is None for label in labels]) & ~missing.to_numpy()
    _report(bad, series, is_wrong, f"is none of {', '.join(schema.class_labels)}, nor mapped to one")
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
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))  # a column of integers with a gap is read as doubles
    return str(value).strip()
