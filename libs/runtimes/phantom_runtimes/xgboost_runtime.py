"""XGBoost models: .json and .ubj files of gbtree and dart boosters."""

from pathlib import Path

import numpy as np

from phantom_contracts.schema import ModelSchema
from phantom_runtimes import ubj, xgboost_check
from phantom_runtimes.errors import Invalid, corrupt
from phantom_runtimes.formats import Format
from phantom_runtimes.model import Float32, Matrix, Predictions, binary, classified, regressed
from phantom_runtimes.xgboost_library import MARGIN, VALUE, Booster, XGBoostError

BINARY = ("binary:logistic",)
MULTICLASS = ("multi:softprob", "multi:softmax")
REGRESSION = (
    "reg:squarederror", "reg:squaredlogerror", "reg:absoluteerror", "reg:pseudohubererror", "reg:logistic",
    "reg:gamma", "reg:tweedie", "count:poisson", "rank:pairwise", "rank:ndcg", "rank:map",
)  # fmt: skip


def load(path: Path, found: Format, schema: ModelSchema, *, threads: int) -> "XGBoostModel":
    """The model, after every tree was checked; Invalid otherwise."""
    raw = path.read_bytes()
    document = xgboost_check.parse_json(raw) if found == "xgboost-json" else ubj.loads(raw)
    try:
        shape = xgboost_check.check(document, schema)
    except Invalid:
        raise
    except Exception as error:  # a shape of document that nobody thought of is no model either
        raise corrupt(f"the model is not built as XGBoost builds one: {error!r:.200}") from error
    _check_task(shape, schema)
    model = XGBoostModel(Booster(raw, threads=threads), shape.objective, schema)
    try:
        model.predict(np.zeros((1, len(schema.features)), dtype=np.float32))
    except (XGBoostError, ValueError) as error:
        raise corrupt(f"the model cannot predict: {error}") from error
    return model


class XGBoostModel:
    """A booster behind its schema."""

    runtime = "xgboost"

    def __init__(self, booster: Booster, objective: str, schema: ModelSchema) -> None:
        self.schema = schema
        self._booster = booster
        self._objective = objective

    def predict(self, matrix: Matrix) -> Predictions:
        rows = np.ascontiguousarray(matrix, dtype=np.float32)
        if self._objective in BINARY:
            return binary(self.schema, self._booster.predict(rows, VALUE)[:, 0])
        if self._objective == "multi:softmax":
            return classified(self.schema, _softmax(self._booster.predict(rows, MARGIN)))
        if self._objective in MULTICLASS:
            return classified(self.schema, self._booster.predict(rows, VALUE))
        return regressed(self._booster.predict(rows, VALUE)[:, 0])


def _check_task(shape: xgboost_check.Shape, schema: ModelSchema) -> None:
    labels = len(schema.class_labels)
    if shape.objective in BINARY:
        fits = schema.task == "classification" and labels == 2 and shape.classes <= 1
    elif shape.objective in MULTICLASS:
        fits = schema.task == "classification" and labels == shape.classes
    elif shape.objective in REGRESSION:
        fits = schema.task == "regression" and shape.classes <= 1
    else:
        known = ", ".join((*BINARY, *MULTICLASS, *REGRESSION))
        raise Invalid(
            "unsupported_model",
            f"the objective {shape.objective!r:.80} is not supported; supported are {known}",
        )
    if not fits:
        raise Invalid(
            "schema_mismatch",
            f"the model's objective is {shape.objective} with {max(2, shape.classes)} classes at most, but its schema "
            f"says {schema.task} with {labels} class labels",
        )


def _softmax(margins: Float32) -> Float32:
    raised = np.exp(margins - margins.max(axis=1, keepdims=True))
    probabilities: Float32 = raised / raised.sum(axis=1, keepdims=True)
    return probabilities
