"""What XGBoost's objectives make of the sum of the trees, and back."""

from __future__ import annotations

import numpy as np

from phantom_contracts.schema import ModelSchema
from phantom_runtimes.model import Float32, Predictions, binary, classified, regressed

BINARY = ("binary:logistic",)
MULTICLASS = ("multi:softprob", "multi:softmax")
REGRESSION = (
    "reg:squarederror", "reg:squaredlogerror", "reg:absoluteerror", "reg:pseudohubererror", "reg:logistic",
    "reg:gamma", "reg:tweedie", "count:poisson", "rank:pairwise", "rank:ndcg", "rank:map",
)  # fmt: skip
_LOGISTIC = (*BINARY, "reg:logistic")
_EXPONENTIAL = ("reg:gamma", "reg:tweedie", "count:poisson")


def base_margins(objective: str, base_scores: Float32) -> Float32:
    """Where the sums start, from the base scores that a model holds in the terms of its answers."""
    if objective in _LOGISTIC:
        base_scores = np.log(base_scores / (1 - base_scores))
    elif objective in _EXPONENTIAL:
        base_scores = np.log(base_scores)
    return base_scores


def predictions(schema: ModelSchema, objective: str, margins: Float32, runtime: str) -> Predictions:
    """Answers from margins [rows, groups]."""
    if objective in BINARY:
        return binary(schema, _sigmoid(margins[:, 0]), runtime)
    if objective in MULTICLASS:
        return classified(schema, softmax(margins), runtime)
    first = margins[:, 0]
    if objective in _LOGISTIC:
        first = _sigmoid(first)
    elif objective in _EXPONENTIAL:
        first = np.exp(first)
    return regressed(first, runtime)


def softmax(margins: Float32) -> Float32:
    """Probabilities [rows, classes]."""
    raised = np.exp(margins - margins.max(axis=1, keepdims=True))
    probabilities: Float32 = raised / raised.sum(axis=1, keepdims=True)
    return probabilities


def _sigmoid(margins: Float32) -> Float32:
    raised = np.exp(-np.maximum(margins, _LEAST))
    return np.reciprocal(raised + _ONE, out=raised)


_ONE = np.float32(1)
_LEAST = np.float32(-88)  # beyond it the exponential has no float32, and the probability is 0 to 38 digits
