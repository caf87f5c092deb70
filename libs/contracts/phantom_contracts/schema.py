"""Schemas of models and endpoints: what a request must carry and what an answer means (contracts §6).

A *model schema* belongs to one model version. An *endpoint schema* is the ordered list of columns that clients of an
endpoint send; it only ever grows, and each entry of `widths` is a width that some earlier version of it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FeatureType = Literal["double", "float", "int", "bool", "string"]
OutcomeType = Literal["bool", "class", "number"]
Task = Literal["classification", "regression"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Feature(_Value):
    """One input column. `string` features are categories and list them in `categories`."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")
    type: FeatureType = "double"
    categories: tuple[str, ...] = ()
    required: bool = True
    allows_missing: bool = Field(default=True, description="NaN (or an unknown category) is a valid value")

    @model_validator(mode="after")
    def _categories_fit(self) -> Feature:
        if self.type == "string" and not self.categories:
            raise ValueError(f"feature {self.name!r} is text and lists no categories")
        if self.type != "string" and self.categories:
            raise ValueError(f"feature {self.name!r} is {self.type} and cannot list categories")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"feature {self.name!r} lists a category twice")
        return self


class Outcome(_Value):
    """What the application reports later, and how it maps onto the model's labels."""

    field: str
    type: OutcomeType = "bool"
    mapping: dict[str, str] = Field(default_factory=dict, description="reported value → class label")
    maturity_s: float = Field(default=0.0, ge=0, le=30 * 86400, description="age at which a label counts, s")
    fields: dict[str, str] = Field(default_factory=dict, description="business fields: name → type")


class ModelSchema(_Value):
    """Inputs and outputs of one model version."""

    features: tuple[Feature, ...] = Field(min_length=1)
    task: Task = "classification"
    class_labels: tuple[str, ...] = ()
    positive_label: str | None = Field(default=None, description="the class whose probability is the score")
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="binary: score at which positive is answered"
    )
    outcome: Outcome | None = None

    @model_validator(mode="after")
    def _labels_fit(self) -> ModelSchema:
        names = [feature.name for feature in self.features]
        if len({name.lower() for name in names}) != len(names):
            raise ValueError("feature names must differ, regardless of case")
        if self.task == "classification" and len(self.class_labels) < 2:
            raise ValueError("a classifier lists at least two class labels")
        if self.task == "regression" and (self.class_labels or self.positive_label):
            raise ValueError("a regression model has no class labels")
        if self.positive_label is not None and self.positive_label not in self.class_labels:
            raise ValueError(f"positive label {self.positive_label!r} is not a class label")
        return self

    @property
    def score_label(self) -> str | None:
        """The class whose probability is the score: as named, else the last one; None for regression."""
        if self.task == "regression":
            return None
        return self.positive_label or self.class_labels[-1]


class Column(_Value):
    """One column of an endpoint's schema."""

    name: str
    type: FeatureType = "double"
    required: bool = True


class EndpointSchema(_Value):
    """What clients of an endpoint send: columns in order, appended and never moved or removed."""

    version: int = 1
    columns: tuple[Column, ...]
    widths: tuple[int, ...] = Field(default=(), description="widths of earlier versions, ascending")

    @property
    def all_numeric(self) -> bool:
        """True where one tensor with all columns may be sent."""
        return all(column.type != "string" for column in self.columns)

    @property
    def accepted_widths(self) -> frozenset[int]:
        """Widths that a single tensor may have."""
        return frozenset((*self.widths, len(self.columns)))


def endpoint_schema(
    model_schemas: Sequence[ModelSchema], previous: EndpointSchema | None = None
) -> EndpointSchema:
    """The endpoint's schema for these live revisions, growing `previous` where there is one.

    A column is required iff some live revision requires it. Raises ValueError where two schemas give one name two
    types.
    """
    types: dict[str, FeatureType] = {c.name: c.type for c in previous.columns} if previous else {}
    required: set[str] = set()
    for schema in model_schemas:
        for feature in schema.features:
            known = types.setdefault(feature.name, feature.type)
            if (known == "string") != (feature.type == "string"):
                raise ValueError(
                    f"feature {feature.name!r} is {known} on this endpoint and {feature.type} in the model"
                )
            if feature.required:
                required.add(feature.name)
    columns = tuple(Column(name=n, type=t, required=n in required) for n, t in types.items())
    if previous is None:
        return EndpointSchema(columns=columns)
    if columns == previous.columns:
        return previous
    grew = len(columns) > len(previous.columns)
    widths = tuple(sorted({*previous.widths, len(previous.columns)})) if grew else previous.widths
    return EndpointSchema(version=previous.version + 1, columns=columns, widths=widths)
