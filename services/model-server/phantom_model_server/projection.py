"""From an endpoint's columns to a model's features: which go where, and what a model allows in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phantom_contracts.schema import EndpointSchema, Feature, ModelSchema
from phantom_platform.errors import Invalid

Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TextFeature:
    """A category of the model: its place among the features, its text column, its categories' numbers."""

    feature: Feature
    target: int
    source: int  # index into the endpoint's text columns; -1 where the endpoint has no such column
    numbers: dict[str, int]


class Projection:
    """An endpoint's schema seen by one model. Immutable; made once for each version of the endpoint's schema."""

    def __init__(self, endpoint: EndpointSchema, model: ModelSchema) -> None:
        self.endpoint = endpoint
        self.model = model
        self.number_columns = tuple(c.name for c in endpoint.columns if c.type != "string")
        self.text_columns = tuple(c.name for c in endpoint.columns if c.type == "string")
        self.columns = {column.name: column for column in endpoint.columns}
        self.number_places = {name: place for place, name in enumerate(self.number_columns)}
        self.text_places = {name: place for place, name in enumerate(self.text_columns)}
        self._check_types()
        self.text_features = tuple(
            TextFeature(
                feature,
                place,
                self.text_places.get(feature.name, -1),
                {text: number for number, text in enumerate(feature.categories)},
            )
            for place, feature in enumerate(model.features)
            if feature.type == "string"
        )
        numeric = [
            (n, f)
            for n, f in enumerate(model.features)
            if f.name in self.number_places and f.type != "string"
        ]
        self._targets = np.array([place for place, _ in numeric], dtype=np.intp)
        self._sources = np.array([self.number_places[feature.name] for _, feature in numeric], dtype=np.intp)
        self._is_identity = (
            self._sources.tolist() == list(range(len(self.number_columns)))
            and self._targets.tolist() == list(range(len(model.features)))
        )  # fmt: skip
        self._filled = [n for n, feature in enumerate(model.features) if not feature.allows_missing]
        self._whole = [n for n, feature in enumerate(model.features) if feature.type == "int"]
        self._truths = [n for n, feature in enumerate(model.features) if feature.type == "bool"]

    def missing(self, present: frozenset[str]) -> int:
        """How many of the model's optional features did not come; Invalid where a required one did not."""
        absent = [feature for feature in self.model.features if feature.name not in present]
        required = [feature.name for feature in absent if feature.required]
        if required:
            raise Invalid(
                f"the model needs {', '.join(map(repr, required[:20]))}, which did not come; send them too",
                code="missing_feature",
                features=required[:20],
            )
        return len(absent)

    def codes(self, texts: Sequence[list[str] | None], rows: int) -> tuple[Numbers | None, int]:
        """The model's categories as numbers [rows, text features], and how many were unknown (they are NaN)."""
        if not self.text_features:
            return None, 0
        codes = np.full((rows, len(self.text_features)), np.nan, dtype=np.float32)
        unknown = 0
        for place, each in enumerate(self.text_features):
            column = texts[each.source] if each.source >= 0 else None
            if column is None:
                continue
            for row, text in enumerate(column):
                number = each.numbers.get(text)
                if number is not None:
                    codes[row, place] = number
                elif text:
                    unknown += 1
        return codes, unknown

    def matrix(self, numbers: Numbers, codes: Numbers | None) -> Numbers:
        """The model's features [rows, features] from the endpoint's numbers [rows, number columns] and codes."""
        if self._is_identity:
            return numbers
        matrix = np.full((len(numbers), len(self.model.features)), np.nan, dtype=numbers.dtype)
        matrix[:, self._targets] = numbers[:, self._sources]
        if codes is not None:
            matrix[:, [each.target for each in self.text_features]] = codes
        return matrix

    def check(self, matrix: Numbers) -> None:
        """Raise Invalid where a value is infinite, is missing but may not be, or is no whole number but must be."""
        infinite = np.isinf(matrix)
        if np.count_nonzero(infinite):
            self._fail(infinite, range(matrix.shape[1]), "invalid_value", "an infinite value")
        if self._filled:
            absent = np.isnan(matrix)
            if np.count_nonzero(absent):
                what = "no value, or none of its categories"
                self._fail(absent[:, self._filled], self._filled, "missing_value", what)
        if self._whole:
            here = matrix[:, self._whole]
            self._fail((here != np.rint(here)) & ~np.isnan(here), self._whole, "invalid_value", "a fraction")
        if self._truths:
            here = matrix[:, self._truths]
            self._fail(
                (here != 0) & (here != 1) & ~np.isnan(here), self._truths, "invalid_value", "neither 0 nor 1"
            )

    def _fail(self, bad: npt.NDArray[np.bool_], places: Sequence[int], code: str, what: str) -> None:
        if not bad.any():
            return
        row, column = (int(each[0]) for each in np.nonzero(bad))
        feature = self.model.features[places[column]]
        raise Invalid(
            f"tensor {feature.name!r}: expected {feature.type}{'' if feature.allows_missing else ', never missing'}, "
            f"got {what} in row {row}",
            code=code,
            tensor=feature.name,
            row=row,
        )

    def _check_types(self) -> None:
        for feature in self.model.features:
            column = self.columns.get(feature.name)
            if column is not None and (column.type == "string") != (feature.type == "string"):
                raise Invalid(
                    f"the endpoint's column {feature.name!r} is {column.type}, the model takes {feature.type}",
                    code="schema_conflict",
                )
