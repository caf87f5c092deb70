"""What the gateway itself has to do for servers of another make: drop tensors, and pack what it can for the log.

Packed are numeric features that came as one tensor a feature, and outputs that are named or shaped as our own model
server's. Text features are left out. Where the outputs cannot be told, nothing is packed and the caller counts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError

from inference import grpc_service_pb2 as oip
from phantom.predictions.v1 import prediction_batch_pb2 as predictions
from phantom_contracts.schema import ModelSchema
from phantom_inference_gateway.calls import Part
from phantom_platform.errors import Invalid

MAX_ROWS = 512
_TYPES = {
    "BOOL": ("?", "bool_contents"),
    "INT8": ("<i1", "int_contents"),
    "INT16": ("<i2", "int_contents"),
    "INT32": ("<i4", "int_contents"),
    "INT64": ("<i8", "int64_contents"),
    "UINT8": ("<u1", "uint_contents"),
    "UINT16": ("<u2", "uint_contents"),
    "UINT32": ("<u4", "uint_contents"),
    "UINT64": ("<u8", "uint64_contents"),
    "FP32": ("<f4", "fp32_contents"),
    "FP64": ("<f8", "fp64_contents"),
}
Arrays = Mapping[str, "np.ndarray"]


class UnpackableError(ValueError):
    """This request or answer cannot be packed for the log; the message says why."""


def parse_request(body: bytes) -> oip.ModelInferRequest:
    """The whole message; Invalid where it is none."""
    try:
        return oip.ModelInferRequest.FromString(body)
    except DecodeError as error:
        raise Invalid(
            "the request is not a valid inference.ModelInferRequest", code="unparsable_request"
        ) from error


def keep_declared(request: oip.ModelInferRequest, schema: ModelSchema | None) -> None:
    """Drop tensors that the revision does not declare, if it declares any that came (contracts §6)."""
    declared = {feature.name for feature in schema.features} if schema is not None else set()
    keep = [index for index, tensor in enumerate(request.inputs) if tensor.name in declared]
    if not keep or len(keep) == len(request.inputs):
        return
    inputs = [request.inputs[index] for index in keep]
    is_raw = len(request.raw_input_contents) == len(request.inputs)
    raw = [request.raw_input_contents[index] for index in keep] if is_raw else []
    del request.inputs[:]
    request.inputs.extend(inputs)
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(raw)


def pack(request: oip.ModelInferRequest, body: bytes, schema: ModelSchema | None) -> tuple[Part, ...]:
    """The answer's rows in blocks of at most 512; UnpackableError where they cannot be told."""
    if schema is None:
        raise UnpackableError("the revision has no schema")
    try:
        response = oip.ModelInferResponse.FromString(body)
    except DecodeError as error:
        raise UnpackableError("the answer is not a valid inference.ModelInferResponse") from error
    features = _arrays(request.inputs, request.raw_input_contents)
    outputs = _arrays(response.outputs, response.raw_output_contents)
    names = [each.name for each in schema.features if each.type != "string" and each.name in features]
    answers = _regression(outputs) if schema.task == "regression" else _classification(outputs, schema)
    rows = len(next(iter(answers.values())))
    if any(features[name].size != rows for name in names):
        raise UnpackableError("features and outputs differ in rows")
    table = np.column_stack([features[name].reshape(rows).astype("<f8") for name in names]) if names else None
    return tuple(
        (_block(names, table, answers, schema, slice(start, min(rows, start + MAX_ROWS))), 0,
         min(MAX_ROWS, rows - start), start)
        for start in range(0, rows, MAX_ROWS)
    )  # fmt: skip


def _block(
    names: Sequence[str], table: np.ndarray | None, answers: Arrays, schema: ModelSchema, at: slice
) -> bytes:
    block = predictions.Block(rows=at.stop - at.start, number_width=8, runtime="oip")
    if table is not None:
        block.number_columns.extend(names)
        block.numbers = table[at].tobytes()
    if "values" in answers:
        block.values = answers["values"][at].astype("<f8").tobytes()
    else:
        probabilities = answers["probabilities"][at]
        score_at = schema.class_labels.index(schema.score_label or schema.class_labels[-1])
        block.class_labels.extend(schema.class_labels)
        block.probabilities = probabilities.astype("<f4").tobytes()
        block.scores = np.ascontiguousarray(probabilities[:, score_at]).astype("<f4").tobytes()
        block.label_indexes = _labels(probabilities, schema, score_at).astype("<i4").tobytes()
    encoded: bytes = block.SerializeToString()
    return encoded


def _labels(probabilities: np.ndarray, schema: ModelSchema, score_at: int) -> np.ndarray:
    if len(schema.class_labels) == 2:
        return np.where(probabilities[:, score_at] >= schema.threshold, score_at, 1 - score_at)
    most_likely: np.ndarray = probabilities.argmax(axis=1)
    return most_likely


def _regression(outputs: Arrays) -> Arrays:
    found = outputs.get("value")
    if found is None and len(outputs) == 1:
        found = next(iter(outputs.values()))
    if found is None or found.size != len(found):
        raise UnpackableError(f"no output is one value a row among {sorted(outputs)}")
    return {"values": found.reshape(len(found))}


def _classification(outputs: Arrays, schema: ModelSchema) -> Arrays:
    shape = (-1, len(schema.class_labels))
    named = outputs.get("probabilities")
    fitting = [each for each in outputs.values() if each.ndim == 2 and each.shape[1] == shape[1]]
    found = named if named is not None else fitting[0] if len(fitting) == 1 else None
    if found is None or found.ndim != 2 or found.shape[1] != shape[1] or found.dtype.kind != "f":
        raise UnpackableError(f"no output is a probability a class among {sorted(outputs)}")
    return {"probabilities": found}


def _arrays(tensors: Sequence[object], raw: Sequence[bytes]) -> dict[str, np.ndarray]:
    """The numeric tensors by name; texts are left out."""
    arrays: dict[str, np.ndarray] = {}
    for index, tensor in enumerate(tensors):
        kind = _TYPES.get(tensor.datatype)  # type: ignore[attr-defined]
        if kind is None:
            continue
        dtype, field = kind
        if raw:
            if index >= len(raw) or len(raw[index]) % np.dtype(dtype).itemsize:
                raise UnpackableError("raw contents do not fit the tensors")
            flat = np.frombuffer(raw[index], dtype)
        else:
            flat = np.array(getattr(tensor.contents, field), dtype)  # type: ignore[attr-defined]
        shape = tuple(tensor.shape)  # type: ignore[attr-defined]
        if not shape or int(np.prod(shape)) != flat.size:
            raise UnpackableError("a tensor's contents do not fit its shape")
        arrays[tensor.name] = flat.reshape(shape)  # type: ignore[attr-defined]
    return arrays
