"""scikit-learn models: .skops files, and pickles where the operator allows them.

A model is given a float64 matrix [rows, features]; a category is its index in the schema's list.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phantom_contracts.schema import ModelSchema
from phantom_runtimes import sklearn_check
from phantom_runtimes.errors import Invalid, corrupt
from phantom_runtimes.formats import Format
from phantom_runtimes.model import ONLY_ITS_OWN, Matrix, Predictions, class_order, classified, regressed


def load(
    path: Path, found: Format, schema: ModelSchema, *, threads: int, allow_pickle: bool
) -> "SklearnModel":
    """The model; Invalid where its file may not be loaded, is damaged, or does not fit its schema."""
    if found == "pickle":
        if not allow_pickle:
            raise Invalid(
                "pickle_not_allowed",
                "the artifact is a pickle, which executes code as it loads; save the model with skops, or convert "
                "it to ONNX, or have the operator allow pickles (PHANTOM_MODEL_SERVER_ALLOW_PICKLE=true)",
            )
        estimator = _load_pickle(path)
    else:
        estimator = _load_skops(path)
    _limit_threads(estimator, threads)
    model = SklearnModel(estimator, schema)
    try:
        model.predict(np.zeros((1, len(schema.features))))
    except Invalid:
        raise
    except Exception as error:
        raise corrupt(f"the model cannot predict: {error}") from error
    return model


class SklearnModel:
    """An estimator behind its schema."""

    runtime = "scikit-learn"
    choice = ONLY_ITS_OWN

    def __init__(self, estimator: Any, schema: ModelSchema) -> None:
        self.schema = schema
        self._estimator = estimator
        features = getattr(estimator, "n_features_in_", len(schema.features))
        if features != len(schema.features):
            raise Invalid(
                "schema_mismatch",
                f"the model takes {features} features, its schema lists {len(schema.features)}",
            )
        self._order = _class_order(estimator, schema)

    def predict(self, matrix: Matrix) -> Predictions:
        rows = np.ascontiguousarray(matrix, dtype=np.float64)
        if self.schema.task == "regression":
            values = np.asarray(self._estimator.predict(rows), dtype=np.float64)
            if values.shape != (len(rows),):
                raise Invalid("schema_mismatch", f"the model answers {values.shape} for {len(rows)} rows")
            return regressed(values)
        probabilities = np.asarray(self._estimator.predict_proba(rows), dtype=np.float32)
        if self._order is not None:
            probabilities = np.ascontiguousarray(probabilities[:, self._order])
        if probabilities.shape != (len(rows), len(self.schema.class_labels)):
            raise Invalid("schema_mismatch", f"the model answers {probabilities.shape} for {len(rows)} rows")
        return classified(self.schema, probabilities)


def _load_skops(path: Path) -> Any:
    sklearn_check.check_file(path)
    import skops.io

    try:
        estimator = skops.io.load(path, trusted=list(sklearn_check.BEYOND_SKOPS))
    except Exception as error:  # whatever a crafted file provokes, it is not loaded
        raise corrupt(f"skops cannot load the model: {error}") from error
    sklearn_check.check_estimator(estimator)
    return estimator


def _load_pickle(path: Path) -> Any:
    import joblib

    try:
        estimator = joblib.load(path)  # reads plain pickles too; allowed by the operator, see above
    except Exception as error:
        raise corrupt(f"the pickle cannot be loaded: {error}") from error
    sklearn_check.check_estimator(estimator)
    return estimator


def _limit_threads(estimator: Any, threads: int) -> None:
    if hasattr(estimator, "get_params") and hasattr(estimator, "set_params"):
        names = [name for name in estimator.get_params() if name == "n_jobs" or name.endswith("__n_jobs")]
        estimator.set_params(**dict.fromkeys(names, threads))


def _class_order(estimator: Any, schema: ModelSchema) -> npt.NDArray[np.intp] | None:
    if schema.task == "regression":
        if not hasattr(estimator, "predict") or hasattr(estimator, "classes_"):
            raise Invalid(
                "schema_mismatch", f"the schema says regression, but {type(estimator).__name__} is none"
            )
        return None
    if not hasattr(estimator, "predict_proba"):
        raise Invalid(
            "unsupported_model",
            f"{type(estimator).__name__} has no predict_proba; a classifier needs probabilities",
        )
    classes = np.asarray(estimator.classes_)
    if classes.ndim != 1:
        raise Invalid("unsupported_model", "the model has several outputs; one is supported")
    texts = [str(each).lower() if classes.dtype.kind == "b" else str(each) for each in classes.tolist()]
    return class_order(schema, texts, positional=classes.dtype.kind in "iu")
