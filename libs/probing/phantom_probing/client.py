"""A thin client of the inference protocol, to one replica or to a gateway."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt

from inference import grpc_service_pb2 as oip
from phantom_contracts.schema import ModelSchema
from phantom_contracts.tensors import labels_are_integers
from phantom_platform.errors import PhantomError
from phantom_platform.rpc.client import from_rpc_error
from phantom_probing import rows as wire
from phantom_probing.rows import Numbers, Rows

INFER = "/inference.GRPCInferenceService/ModelInfer"
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True)
class Target:
    """Where requests go: a replica (its model's id) or a gateway (an endpoint; `model_version` pins one)."""

    address: str
    model_name: str
    model_version: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answers:
    """What a model answered for [rows]."""

    labels: list[str] | None  # None for regression
    probabilities: npt.NDArray[np.float32] | None  # [rows, classes] in the schema's order
    scores: Numbers  # [rows]
    values: Numbers | None  # [rows], None for classification
    model_version: str

    @property
    def count(self) -> int:
        return len(self.scores)


class Caller:
    """One connection for requests that are serialized already. An async context manager."""

    def __init__(self, target: Target, timeout_s: float = 30.0) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(target.address, options=_OPTIONS)
        self._infer: Any = self._channel.unary_unary(INFER)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def call(self, body: bytes) -> bytes:
        """A serialized answer. Raises the server's error as ours."""
        try:
            answer: bytes = await self._infer(
                body, timeout=self._timeout_s, metadata=self.target.metadata or None
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return answer

    async def timed(self, body: bytes) -> tuple[bytes, float]:
        """A serialized answer and how long it took, ms."""
        start = time.perf_counter()
        answer = await self.call(body)
        return answer, (time.perf_counter() - start) * 1000


class Client(Caller):
    """One that knows the model's schema."""

    def __init__(self, target: Target, schema: ModelSchema, timeout_s: float = 30.0) -> None:
        super().__init__(target, timeout_s)
        self.schema = schema

    def request(self, rows: Rows, request_id: str = "") -> bytes:
        """The request for these rows, serialized: what is measured is then the call alone."""
        return wire.request(self.target.model_name, rows, self.target.model_version, request_id)

    async def infer(self, rows: Rows) -> Answers:
        """Answers for the rows. Raises the server's error as ours."""
        return decode(await self.call(self.request(rows)), self.schema)


def decode(body: bytes, schema: ModelSchema) -> Answers:
    """Answers of a serialized ModelInferResponse with raw contents. PhantomError `unexpected_answer` where it has not
    what the schema promises."""
    message = oip.ModelInferResponse.FromString(body)
    raw = {
        output.name: content
        for output, content in zip(message.outputs, message.raw_output_contents, strict=False)
    }
    kinds = {output.name: output.datatype for output in message.outputs}
    try:
        if schema.task == "regression":
            values = _numbers(raw["value"], kinds["value"])
            return Answers(None, None, values, values, message.model_version)
        scores = _numbers(raw["score"], kinds["score"])
        probabilities = np.frombuffer(raw["probabilities"], "<f4").reshape(-1, len(schema.class_labels))
        labels = _labels(raw["label"], labels_are_integers(schema))
        if not len(labels) == len(scores) == len(probabilities):
            raise ValueError("its outputs have different lengths")
    except (KeyError, ValueError, struct.error) as error:
        raise PhantomError(
            f"the answer is not what the schema of a {schema.task} model says: {error!r}; it has the outputs "
            f"{', '.join(raw) or 'none'}",
            code="unexpected_answer",
        ) from error
    return Answers(labels, probabilities, scores, None, message.model_version)


def concatenated(parts: Sequence[Answers]) -> Answers:
    """The parts' rows one after the other; at least one part."""
    first = parts[0]
    return Answers(
        None if first.labels is None else [label for part in parts for label in part.labels or ()],
        None
        if first.probabilities is None
        else np.concatenate([part.probabilities for part in parts if part.probabilities is not None]),
        np.concatenate([part.scores for part in parts]),
        None
        if first.values is None
        else np.concatenate([part.values for part in parts if part.values is not None]),
        first.model_version,
    )


def _numbers(raw: bytes, datatype: str) -> Numbers:
    return np.frombuffer(raw, "<f4" if datatype == "FP32" else "<f8").astype(np.float64)


def _labels(raw: bytes, are_integers: bool) -> list[str]:
    if are_integers:
        return [str(label) for label in np.frombuffer(raw, "<i8").tolist()]
    found, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return found
