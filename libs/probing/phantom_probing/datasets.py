"""Rows of a registered dataset: found by its URI, checked by its digest, typed by a model's schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phantom_contracts.schema import Feature, ModelSchema
from phantom_platform.errors import Invalid, Violation
from phantom_probing.dataset_files import Access, Dataset, Table, table_of
from phantom_probing.rows import Column, Numbers, Rows

MAX_VIOLATIONS = 20
"""Bad cells that an error names."""


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
    access: Access,
    expected_column: str = "",
    id_column: str = "",
) -> Labelled:
    """The dataset's rows. Blocking, and in memory as a whole.

    What is right stands in `expected_column`, else in the schema's outcome field: a class label, or a value that the
    outcome's mapping names. Ids are the rows' numbers, from 1, where no column holds them. Raises what `table_of` does,
    and Invalid `dataset_column_missing`, `dataset_empty`, and `dataset_rows_invalid`, which names rows and columns.
    """
    table = table_of(dataset, access)
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
