"""Schemas as OIP tensors: what an endpoint takes and what a model answers, for metadata and for the model server.

An endpoint takes one tensor a feature, named as the feature, of shape [rows] or [rows, 1]; one whose columns are
all numeric also takes the single tensor `features` of shape [rows, columns].
"""

from __future__ import annotations

from dataclasses import dataclass

from phantom_contracts.schema import EndpointSchema, FeatureType, ModelSchema

MATRIX = "features"
"""Name of the single tensor that holds all columns, in the endpoint's order."""

DATATYPES: dict[FeatureType, str] = {
    "double": "FP64",
    "float": "FP32",
    "int": "INT64",
    "bool": "BOOL",
    "string": "BYTES",
}
"""What metadata says of a feature. Every numeric datatype is accepted for every feature that is not text."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's name, OIP datatype and shape; -1 where a dimension varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def endpoint_inputs(schema: EndpointSchema) -> tuple[Tensor, ...]:
    """The inputs that metadata names: the single tensor where it may be sent, else one a column."""
    if schema.all_numeric:
        only = "FP32" if all(column.type == "float" for column in schema.columns) else "FP64"
        return (Tensor(MATRIX, only, (-1, len(schema.columns))),)
    return tuple(Tensor(column.name, DATATYPES[column.type], (-1, 1)) for column in schema.columns)


def model_outputs(schema: ModelSchema) -> tuple[Tensor, ...]:
    """What a model answers: label, probabilities and score, or value and score."""
    if schema.task == "regression":
        return (Tensor("value", "FP64", (-1,)), Tensor("score", "FP64", (-1,)))
    return (
        Tensor("label", "INT64" if labels_are_integers(schema) else "BYTES", (-1,)),
        Tensor("probabilities", "FP32", (-1, len(schema.class_labels))),
        Tensor("score", "FP32", (-1,)),
    )


def labels_are_integers(schema: ModelSchema) -> bool:
    """Whether every class label is the decimal text of a 64-bit integer."""
    return all(_is_integer(label) for label in schema.class_labels)


def _is_integer(text: str) -> bool:
    try:
        number = int(text)
    except ValueError:
        return False
    return str(number) == text and -(2**63) <= number < 2**63
