"""XGBoost models: .json and .ubj files of gbtree and dart boosters.

A run of few rows costs XGBoost what it costs to begin (0.1 ms for 200 trees), so onnxruntime answers those from the
same trees, where it was shown to answer alike and found to be sooner.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from phantom_contracts.schema import ModelSchema
from phantom_runtimes import parity, parity_rows, ubj, xgboost_check, xgboost_trees
from phantom_runtimes.errors import Invalid, corrupt
from phantom_runtimes.formats import Format
from phantom_runtimes.model import Choice, Float32, Matrix, Predictions, binary, classified, regressed
from phantom_runtimes.xgboost_library import MARGIN, VALUE, Booster, XGBoostError
from phantom_runtimes.xgboost_objectives import (
    BINARY,
    MULTICLASS,
    REGRESSION,
    base_margins,
    predictions,
    softmax,
)
from phantom_runtimes.xgboost_onnx import OnnxTrees

SEED = 20_260_731
"""Of the rows on which the two runtimes are compared: the same at every start."""


def load(path: Path, found: Format, schema: ModelSchema, *, threads: int, is_native: bool) -> XGBoostModel:
    """The model, after every tree was checked; Invalid otherwise. `is_native`: XGBoost alone answers."""
    raw = path.read_bytes()
    document = xgboost_check.parse_json(raw) if found == "xgboost-json" else ubj.loads(raw)
    try:
        shape = xgboost_check.check(document, schema)
    except Invalid:
        raise
    except Exception as error:  # a shape of document that nobody thought of is no model either
        raise corrupt(f"the model is not built as XGBoost builds one: {error!r:.200}") from error
    _check_task(shape, schema)
    native = Native(Booster(raw, threads=threads), shape.objective, schema)
    try:
        native.predict(np.zeros((1, len(schema.features)), dtype=np.float32))
    except (XGBoostError, ValueError) as error:
        raise corrupt(f"the model cannot predict: {error}") from error
    if is_native:
        return XGBoostModel(schema, native, None, Choice(0, "pinned to XGBoost"))
    converted, choice = choose(native, document, threads=threads)
    return XGBoostModel(schema, native, converted, choice)


class XGBoostModel:
    """A booster behind its schema, and its trees in onnxruntime where that pays."""

    runtime = "xgboost"

    def __init__(
        self, schema: ModelSchema, native: Native, converted: Converted | None, choice: Choice
    ) -> None:
        self.schema = schema
        self.choice = choice
        self._native = native
        self._converted = converted

    def predict(self, matrix: Matrix) -> Predictions:
        rows = np.ascontiguousarray(matrix, dtype=np.float32)
        if self._converted is not None and len(rows) <= self.choice.rows:
            return self._converted.predict(rows)
        return self._native.predict(rows)


class Native:
    """XGBoost's own way."""

    def __init__(self, booster: Booster, objective: str, schema: ModelSchema) -> None:
        self.objective = objective
        self.schema = schema
        self._booster = booster

    def predict(self, matrix: Float32) -> Predictions:
        """Answers for [rows, features]."""
        if self.objective in BINARY:
            return binary(self.schema, self._booster.predict(matrix, VALUE)[:, 0])
        if self.objective == "multi:softmax":
            return classified(self.schema, softmax(self.margins(matrix)))
        if self.objective in MULTICLASS:
            return classified(self.schema, self._booster.predict(matrix, VALUE))
        return regressed(self._booster.predict(matrix, VALUE)[:, 0])

    def margins(self, matrix: Float32) -> Float32:
        """What the trees sum up to, [rows, groups]."""
        return self._booster.predict(matrix, MARGIN)


class Converted:
    """The same trees in onnxruntime."""

    def __init__(self, trees: OnnxTrees, objective: str, schema: ModelSchema) -> None:
        self._objective = objective
        self._schema = schema
        self.margins = trees.margins

    def predict(self, matrix: Float32) -> Predictions:
        """Answers for [rows, features]."""
        return self.answers(self.margins(matrix))

    def answers(self, margins: Float32) -> Predictions:
        """Answers for [rows, groups] of margins."""
        return predictions(self._schema, self._objective, margins, "onnxruntime")


def choose(native: Native, document: Any, *, threads: int) -> tuple[Converted | None, Choice]:
    """The trees in onnxruntime and up to how many rows to use them; None where they are not shown to answer alike."""
    try:
        forest = xgboost_trees.read(document)
        trees = OnnxTrees(forest, base_margins(native.objective, forest.base_scores), threads=threads)
        converted = Converted(trees, native.objective, native.schema)
        # Rows with missing values take XGBoost longer; the bound is set by those that take it the least.
        filled = map(np.nan_to_num, _rows(forest))
        most = parity.sooner_up_to(native, converted, filled)
        if not most:
            return None, Choice(0, "onnxruntime is not sooner, not even for one row")
        compared = parity.prove(native, converted, _rows(forest), most)
    except (parity.DisagreementError, xgboost_trees.UnsupportedTreesError) as error:
        return None, Choice(0, str(error))
    except ImportError:
        return None, Choice(0, "onnxruntime is not installed")
    except Exception as error:  # XGBoost answers whatever goes wrong here
        return None, Choice(0, f"not converted: {(str(error) or repr(error)).splitlines()[0]:.200}")
    return converted, Choice(most, f"sooner up to {most} rows, and alike on {compared}")


def _rows(forest: xgboost_trees.Forest) -> Iterator[Float32]:
    return parity_rows.rows(forest, np.random.default_rng(SEED))


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
