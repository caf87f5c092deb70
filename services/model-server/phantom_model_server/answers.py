"""Predictions → an OIP reply, as serialized bytes: raw in, raw out; typed in, typed out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inference import grpc_service_pb2 as oip
from phantom_contracts.protobuf import field, tag, varint
from phantom_contracts.schema import ModelSchema
from phantom_contracts.tensors import labels_are_integers, model_outputs
from phantom_model_server.requests import Call
from phantom_model_server.tensors import shown
from phantom_platform.errors import Invalid
from phantom_runtimes import Predictions

if TYPE_CHECKING:
    from inference.grpc_service_pb2 import ModelInferRequest

MAX_HEADS = 256
"""Combinations of outputs and row counts whose description is kept."""

MAX_NAMES = 256
"""Names of the model as clients write it, whose bytes are kept."""

_ID, _OUTPUT = tag(3), tag(6)  # id and raw_output_contents of ModelInferResponse


@dataclass(slots=True)
class Encoded:
    """Predictions as bytes, rows one after the other; numbers little-endian."""

    labels: list[int]
    label_indexes: bytes  # int32
    probabilities: bytes  # float32
    scores: bytes  # float32 of a classifier, else float64
    values: bytes  # float64


def encode(found: Predictions) -> Encoded:
    """What replies and the prediction log carry of these predictions."""
    if found.labels is None or found.probabilities is None:
        values = found.scores if found.values is None else found.values
        return Encoded([], b"", b"", found.scores.tobytes(), values.tobytes())
    scores = found.scores.astype(np.float32).tobytes()
    return Encoded(found.labels.tolist(), found.labels.tobytes(), found.probabilities.tobytes(), scores, b"")


class Answers:
    """Makes the replies of one model revision."""

    def __init__(self, schema: ModelSchema, model_version: str) -> None:
        self.outputs = {tensor.name: tensor for tensor in model_outputs(schema)}
        self._all = tuple(self.outputs)
        self._version = model_version
        self._is_integer = schema.task == "classification" and labels_are_integers(schema)
        self._labels = [label.encode() for label in schema.class_labels]
        if self._is_integer:
            self._raw_labels = [struct.pack("<q", int(label)) for label in schema.class_labels]
        else:
            self._raw_labels = [struct.pack("<I", len(label)) + label for label in self._labels]
        self._widths = {  # bytes a row
            name: tensor.shape[-1] * 4 if len(tensor.shape) > 1 else 4 if tensor.datatype == "FP32" else 8
            for name, tensor in self.outputs.items()
            if name != "label"
        }
        self._names: dict[str, bytes] = {}
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

    def replies(self, calls: Sequence[Call], found: Encoded) -> list[bytes]:
        """A serialized ModelInferResponse for each of the calls, whose rows lie one after the other."""
        replies = []
        start = 0
        for call in calls:
            stop = start + call.rows.count
            reply = self._raw if call.rows.is_raw else self._typed
            replies.append(reply(call, found, start, stop))
            start = stop
        return replies

    def _raw(self, call: Call, found: Encoded, start: int, stop: int) -> bytes:
        parts = [self._names.get(call.model_name) or self._name(call.model_name)]
        if call.request_id:
            request_id = call.request_id.encode()
            parts += (_ID, varint(len(request_id)), request_id)
        wanted = call.wanted
        parts.append(self._heads.get((stop - start, wanted)) or self._head(stop - start, wanted))
        for name in wanted:
            if name == "label":
                content = b"".join([self._raw_labels[label] for label in found.labels[start:stop]])
            else:
                width = self._widths[name]
                content = self._numbers(name, found)[start * width : stop * width]
            parts += (_OUTPUT, varint(len(content)), content)
        return b"".join(parts)

    def _name(self, model_name: str) -> bytes:
        """The first two fields, serialized."""
        if len(self._names) >= MAX_NAMES:
            self._names.clear()
        made = field(1, model_name.encode()) + field(2, self._version.encode())
        self._names[model_name] = made
        return made

    def _head(self, count: int, wanted: tuple[str, ...]) -> bytes:
        """The outputs' description, serialized."""
        if len(self._heads) >= MAX_HEADS:
            self._heads.clear()
        message = oip.ModelInferResponse()
        for name in wanted:
            tensor = self.outputs[name]
            message.outputs.add(name=name, datatype=tensor.datatype, shape=[count, *tensor.shape[1:]])
        head = self._heads[count, wanted] = message.SerializeToString()
        return head

    def _numbers(self, name: str, found: Encoded) -> bytes:
        if name == "probabilities":
            return found.probabilities
        return found.scores if name == "score" else found.values

    def _typed(self, call: Call, found: Encoded, start: int, stop: int) -> bytes:
        message = oip.ModelInferResponse(
            model_name=call.model_name, model_version=self._version, id=call.request_id
        )
        for name in call.wanted:
            tensor = self.outputs[name]
            output = message.outputs.add(
                name=name, datatype=tensor.datatype, shape=[stop - start, *tensor.shape[1:]]
            )
            labels = found.labels[start:stop]
            if name != "label":
                width = self._widths[name]
                content = self._numbers(name, found)[start * width : stop * width]
                if tensor.datatype == "FP32":
                    output.contents.fp32_contents.extend(np.frombuffer(content, "<f4").tolist())
                else:
                    output.contents.fp64_contents.extend(np.frombuffer(content, "<f8").tolist())
            elif self._is_integer:
                output.contents.int64_contents.extend(int(self._labels[label]) for label in labels)
            else:
                output.contents.bytes_contents.extend(self._labels[label] for label in labels)
        return message.SerializeToString()
