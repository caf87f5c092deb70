"""Predictions → an OIP reply, as serialized bytes: raw in, raw out; typed in, typed out."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from inference import grpc_service_pb2 as oip
from phantom_contracts.schema import ModelSchema
from phantom_contracts.tensors import labels_are_integers, model_outputs
from phantom_model_server.tensors import shown
from phantom_platform.errors import Invalid
from phantom_runtimes import Predictions

if TYPE_CHECKING:
    from inference.grpc_service_pb2 import ModelInferRequest

MAX_HEADS = 256
"""Combinations of outputs and row counts whose description is kept."""

_RAW_OUTPUT = b"\x32"  # field 6, length-delimited: raw_output_contents of ModelInferResponse


class Answers:
    """Makes the replies of one model revision."""

    def __init__(self, schema: ModelSchema, model_version: str) -> None:
        self.outputs = {tensor.name: tensor for tensor in model_outputs(schema)}
        self._all = tuple(self.outputs)
        self._version = model_version
        self._is_integer = schema.task == "classification" and labels_are_integers(schema)
        self._labels = [label.encode() for label in schema.class_labels]
        self._raw_labels = [struct.pack("<I", len(label)) + label for label in self._labels]
        self._numbers = np.array(
            [int(label) for label in schema.class_labels] if self._is_integer else [], "<i8"
        )
        self._heads: dict[tuple[int, tuple[str, ...]], bytes] = {}

    def wanted(self, request: ModelInferRequest) -> tuple[str, ...]:
        """The outputs that the request asks for, in its order; all of them where it names none."""
        if not request.outputs:
            return self._all
        names = tuple(each.name for each in request.outputs)
        for each in request.outputs:
            if each.name not in self.outputs:
                raise Invalid(
                    f"output {shown(each.name)} is not one of the model's: {', '.join(self._all)}",
                    code="unknown_output",
                    output=each.name[:80],
                )
            for name in ("classification", "shared_memory_region"):
                if name in each.parameters:
                    raise Invalid(
                        f"output {each.name!r}: the parameter {name!r} is not supported",
                        code="unsupported_parameter",
                    )
        if len(set(names)) != len(names):
            raise Invalid(f"an output is asked for twice: {', '.join(names[:20])}", code="duplicate_output")
        return names

    def reply(
        self,
        request: ModelInferRequest,
        found: Predictions,
        rows: slice,
        wanted: tuple[str, ...],
        *,
        is_raw: bool,
    ) -> bytes:
        """A serialized ModelInferResponse for these rows of the predictions."""
        count = rows.stop - rows.start
        if not is_raw:
            return self._typed(request, found, rows, wanted, count)
        parts = [
            oip.ModelInferResponse(
                model_name=request.model_name, model_version=self._version, id=request.id
            ).SerializeToString(),
            self._head(count, wanted),
        ]
        for name in wanted:
            content = self._raw(name, found, rows)
            parts += (_RAW_OUTPUT, _varint(len(content)), content)
        return b"".join(parts)  # protobuf messages merge by concatenation

    def _head(self, count: int, wanted: tuple[str, ...]) -> bytes:
        """The outputs' description, serialized."""
        key = (count, wanted)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            message = oip.ModelInferResponse()
            for name in wanted:
                tensor = self.outputs[name]
                message.outputs.add(name=name, datatype=tensor.datatype, shape=[count, *tensor.shape[1:]])
            head = self._heads[key] = message.SerializeToString()
        return head

    def _raw(self, name: str, found: Predictions, rows: slice) -> bytes:
        if name != "label":
            return self._array(name, found, rows).tobytes()
        labels = _labels_of(found)[rows]
        if self._is_integer:
            return self._numbers[labels].tobytes()
        if len(labels) == 1:
            return self._raw_labels[int(labels[0])]
        return b"".join([self._raw_labels[label] for label in labels.tolist()])

    def _array(
        self, name: str, found: Predictions, rows: slice
    ) -> npt.NDArray[np.float32] | npt.NDArray[np.float64]:
        if name == "probabilities" and found.probabilities is not None:
            return found.probabilities[rows]
        if name == "value" and found.values is not None:
            return found.values[rows]
        scores = found.scores[rows]
        return scores.astype(np.float32) if self.outputs[name].datatype == "FP32" else scores

    def _typed(
        self, request: ModelInferRequest, found: Predictions, rows: slice, wanted: tuple[str, ...], count: int
    ) -> bytes:
        message = oip.ModelInferResponse(
            model_name=request.model_name, model_version=self._version, id=request.id
        )
        for name in wanted:
            tensor = self.outputs[name]
            output = message.outputs.add(
                name=name, datatype=tensor.datatype, shape=[count, *tensor.shape[1:]]
            )
            if name == "label":
                labels = _labels_of(found)[rows]
                if self._is_integer:
                    output.contents.int64_contents.extend(self._numbers[labels].tolist())
                else:
                    output.contents.bytes_contents.extend(self._labels[label] for label in labels.tolist())
            else:
                values = self._array(name, found, rows).ravel().tolist()
                into = (
                    output.contents.fp32_contents
                    if tensor.datatype == "FP32"
                    else output.contents.fp64_contents
                )
                into.extend(values)
        return message.SerializeToString()


def _labels_of(found: Predictions) -> npt.NDArray[np.int32]:
    if found.labels is None:
        raise TypeError("a classifier answered without labels")
    return found.labels


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
