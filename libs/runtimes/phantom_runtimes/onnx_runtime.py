"""ONNX models: one tensor with all features, or one tensor a feature; run by onnxruntime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phantom_contracts.schema import Feature, ModelSchema
from phantom_runtimes import onnx_check
from phantom_runtimes.errors import Invalid, corrupt
from phantom_runtimes.model import ONLY_ITS_OWN, Float32, Matrix, Predictions, classified, regressed

_NUMBERS: dict[str, type] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def load(path: Path, schema: ModelSchema, *, threads: int) -> "OnnxModel":
    """The model; Invalid where it is damaged, not self-contained, or does not fit its schema."""
    raw = path.read_bytes()
    order = onnx_check.check(raw, schema)
    model = OnnxModel(session(raw, threads), schema, order)
    try:
        model.predict(np.zeros((2, len(schema.features)), dtype=np.float32))
    except Invalid:
        raise
    except Exception as error:
        raise corrupt(f"the model cannot predict: {_first_line(error)}") from error
    return model


class OnnxModel:
    """A session behind its schema."""

    runtime = "onnxruntime"
    choice = ONLY_ITS_OWN

    def __init__(self, session: Any, schema: ModelSchema, order: npt.NDArray[np.intp] | None) -> None:
        self.schema = schema
        self._session = session
        self._order = order
        self._inputs = session.get_inputs()
        self._single = _check_inputs(self._inputs, schema)
        self._output = _find_output(session.get_outputs(), schema)

    def predict(self, matrix: Matrix) -> Predictions:
        raw = self._session.run([self._output], self._feed(matrix))[0]
        if self.schema.task == "regression":
            return regressed(_column(np.asarray(raw), len(matrix)))
        probabilities = _check_probabilities(np.asarray(raw), len(matrix), len(self.schema.class_labels))
        if self._order is not None:
            probabilities = np.ascontiguousarray(probabilities[:, self._order])
        return classified(self.schema, probabilities)

    def _feed(self, matrix: Matrix) -> dict[str, Any]:
        if self._single:
            only = self._inputs[0]
            return {only.name: np.ascontiguousarray(matrix, dtype=_NUMBERS[only.type])}
        places = {feature.name: place for place, feature in enumerate(self.schema.features)}
        feed = {}
        for each in self._inputs:
            place = places[each.name]
            feed[each.name] = _feature(matrix[:, place], self.schema.features[place], each.type).reshape(
                -1, 1
            )
        return feed


def session(raw: bytes, threads: int) -> Any:
    """A session for a serialized model. Invalid `corrupt_model` where onnxruntime cannot load it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # replicas share the machine
    try:
        return onnxruntime.InferenceSession(
            raw, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors share no class of their own
        raise corrupt(f"onnxruntime cannot load the model: {_first_line(error)}") from error


def _check_inputs(inputs: list[Any], schema: ModelSchema) -> bool:
    """Whether the model takes all features in one tensor."""
    for each in inputs:
        if each.type not in _NUMBERS and each.type != "tensor(string)":
            raise Invalid(
                "unsupported_model", f"the input {each.name!r:.80} is {each.type}, which is not supported"
            )
    names = [feature.name for feature in schema.features]
    if {each.name for each in inputs} == set(names) and (len(names) > 1 or inputs[0].shape[-1:] == [1]):
        return False
    if len(inputs) != 1:
        raise Invalid(
            "schema_mismatch",
            f"the model takes the inputs {sorted(each.name for each in inputs)[:20]}; its schema lists {names[:20]}",
        )
    only = inputs[0]
    width = only.shape[-1] if only.shape else None
    if (
        only.type == "tensor(string)"
        or (isinstance(width, int) and width != len(names))
        or len(only.shape) != 2
    ):
        raise Invalid(
            "schema_mismatch",
            f"the model's input {only.name!r:.80} is {only.type} {only.shape}; its schema lists {len(names)} features",
        )
    return True


def _find_output(outputs: list[Any], schema: ModelSchema) -> str:
    """The output that holds the probabilities, or the values."""
    floats = [each for each in outputs if each.type in ("tensor(float)", "tensor(double)")]
    named = [each for each in floats if each.name in ("probabilities", "output_probability", "variable")]
    found = named or floats
    if len(found) != 1:
        what = "probabilities" if schema.task == "classification" else "values"
        raise Invalid(
            "unsupported_model",
            f"the model has {len(found)} outputs that could be its {what}, among "
            f"{[f'{each.name}: {each.type}' for each in outputs][:10]}; export it with one",
        )
    return str(found[0].name)


def _feature(column: Matrix, feature: Feature, kind: str) -> npt.NDArray[Any]:
    if kind == "tensor(string)":
        texts = np.array([*feature.categories, ""], dtype=object)  # the last one stands for a missing value
        return texts[np.where(np.isnan(column), len(feature.categories), column).astype(np.intp)]
    if np.issubdtype(_NUMBERS[kind], np.floating):
        return column.astype(_NUMBERS[kind])
    if np.isnan(column).any():
        raise Invalid(
            "missing_value", f"the model takes {feature.name!r} as {kind}, which has no missing value"
        )
    return column.astype(_NUMBERS[kind])


def _check_probabilities(raw: npt.NDArray[Any], rows: int, classes: int) -> Float32:
    if raw.shape == (rows, classes):
        return np.ascontiguousarray(raw, dtype=np.float32)
    if classes == 2 and raw.shape in ((rows, 1), (rows,)):
        second = raw.reshape(rows).astype(np.float32)
        return np.stack([1 - second, second], axis=1)
    raise Invalid(
        "schema_mismatch",
        f"the model answers {raw.shape} for {rows} rows; its schema lists {classes} classes",
    )


def _column(raw: npt.NDArray[Any], rows: int) -> Matrix:
    if raw.shape not in ((rows,), (rows, 1)):
        raise Invalid(
            "schema_mismatch", f"the model answers {raw.shape} for {rows} rows; one value a row is supported"
        )
    values: Matrix = raw.reshape(rows)
    return values


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
