"""What every runtime offers, and how raw model outputs become labels, probabilities and scores."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phantom_contracts.schema import ModelSchema
from phantom_runtimes.errors import Invalid

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Matrix = Float32 | Float64

_ONE = np.float32(1)


@dataclass(slots=True)
class Predictions:
    """Answers for [rows]. A classifier has labels and probabilities, a regression model has values.

    Not frozen: made once a frame, and a frozen one takes a microsecond to make.
    """

    labels: npt.NDArray[np.int32] | None  # [rows], index into the schema's class labels
    values: Float64 | None  # [rows]
    probabilities: Float32 | None  # [rows, classes] in the order of the schema's class labels
    scores: Float64  # [rows]: the probability of the schema's score label, or the value
    runtime: str = ""  # which answered, where it was not the model's own


@dataclass(frozen=True, slots=True)
class Choice:
    """When onnxruntime answers for a model of another framework."""

    rows: int  # up to so many in one run; 0: never
    reason: str  # in words


class Model(Protocol):
    """A loaded model."""

    schema: ModelSchema
    runtime: str  # as it stands in prediction records: `xgboost`, `onnxruntime`, `scikit-learn`
    choice: Choice

    def predict(self, matrix: Matrix) -> Predictions:
        """Answers for a matrix [rows, features], features in the schema's order.

        A category is the index of its text in the feature's `categories`; a missing value is NaN. Safe to call
        from several threads. Raises what the runtime raises where the model cannot take the values.
        """
        ...


ONLY_ITS_OWN = Choice(0, "the framework has one runtime")


def classified(schema: ModelSchema, probabilities: Float32, runtime: str = "") -> Predictions:
    """Predictions from class probabilities [rows, classes].

    With two classes the score label is answered from the schema's threshold on; with more, the likeliest.
    """
    scored = schema.class_labels.index(schema.score_label or schema.class_labels[-1])
    scores = probabilities[:, scored].astype(np.float64)
    if len(schema.class_labels) == 2:
        is_scored = scores >= schema.threshold
        labels = (is_scored if scored else ~is_scored).astype(np.int32)
    else:
        labels = probabilities.argmax(axis=1).astype(np.int32)
    return Predictions(labels, None, probabilities, scores, runtime)


def binary(schema: ModelSchema, second: Float32, runtime: str = "") -> Predictions:
    """Predictions from the probability [rows] of the second class label."""
    probabilities = np.empty((len(second), 2), dtype=np.float32)
    probabilities[:, 1] = second
    np.subtract(_ONE, second, out=probabilities[:, 0])
    return classified(schema, probabilities, runtime)


def regressed(values: Matrix, runtime: str = "") -> Predictions:
    """Predictions from values [rows]."""
    as_double = values.astype(np.float64)
    return Predictions(None, as_double, None, as_double, runtime)


def class_order(schema: ModelSchema, classes: list[str], *, positional: bool) -> npt.NDArray[np.intp] | None:
    """For each class label of the schema, its column among the model's classes; None where they agree.

    `positional`: the model's classes are plain numbers 0, 1, ..., which mean the schema's labels in order.
    Invalid `schema_mismatch` where the two do not name the same classes.
    """
    labels = list(schema.class_labels)
    if classes == labels:
        return None
    if sorted(classes) == sorted(labels):
        return np.array([classes.index(label) for label in labels])
    if positional and len(classes) == len(labels) and classes == [str(n) for n in range(len(labels))]:
        return None
    raise Invalid(
        "schema_mismatch", f"the model answers the classes {classes}, but its schema lists {labels}"
    )
