"""`InferenceClient`: predictions from an endpoint, row by row, over the Open Inference Protocol."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from phantom_ml_studio import credentials, oip, tracing
from phantom_ml_studio.errors import Invalid, from_rpc_error

_OPTIONS = [
    ("grpc.max_receive_message_length", 72 << 20),
    ("grpc.max_send_message_length", 72 << 20),
    # By default a channel looks again after up to two minutes: longer than anybody waits for a restart.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_NUMERIC = {"FP64": "d", "FP32": "f", "INT64": "q", "INT32": "i", "BOOL": "?"}
_INT64 = 2**63
Value = float | int | bool | str | None


@dataclass(frozen=True)
class Prediction:
    """What an endpoint answered for one call. Lists have one entry a row."""

    prediction_id: str
    revision: str
    variant: str
    route_version: int
    fallback: bool
    labels: list[Any]
    scores: list[float]
    # [rows][classes]; empty for regression.
    probabilities: list[list[float]]


class InferenceClient:
    """Calls endpoints through a gateway (PHANTOM_GATEWAY, the local stack's, or 127.0.0.1:8001)."""

    def __init__(
        self, address: str | None = None, token: str | None = None, workspace: str = "default"
    ) -> None:
        self.address = address or credentials.gateway_address()
        self._channel = grpc.insecure_channel(self.address, options=_OPTIONS)
        self._metadata = [("phantom-workspace", workspace)] if workspace != "default" else []
        # An endpoint keeps its hash field for as long as it exists.
        self._hash_fields: dict[str, str] = {}
        if token:
            self._metadata.append(("authorization", f"Bearer {token}"))

    def predict(
        self,
        endpoint: str,
        rows: Sequence[Mapping[str, Value]],
        *,
        unit: str | None = None,
        hash_field: str | None = None,
        request_id: str = "",
        version: str = "",
        timeout_s: float = 30.0,
    ) -> Prediction:
        """Predict for rows of named features.

        `unit` is the value of the endpoint's hash field (a user, a device) that stays on one revision; the field's
        name is asked of the endpoint, once, where it is not given. `version` pins a model version. A missing feature
        is None or absent. Errors: Invalid, naming the tensor; NotFound `endpoint_not_found`; Unavailable.
        """
        request = _request(endpoint, rows, version, request_id)
        if unit is not None:
            request.parameters[hash_field or self._hash_field(endpoint)].string_param = unit
        reply, metadata = self._call("ModelInfer", request, "ModelInferResponse", timeout_s)
        tensors = _tensors(reply)
        classes = next((o.shape[1] for o in reply.outputs if o.name == "probabilities"), 0)
        flat = tensors.get("probabilities", [])
        return Prediction(
            prediction_id=metadata.get("phantom-prediction-id", ""),
            revision=metadata.get("phantom-revision", ""),
            variant=metadata.get("phantom-variant", ""),
            route_version=int(metadata.get("phantom-route-version", "0")),
            fallback=metadata.get("phantom-fallback") == "true",
            labels=tensors.get("label", []),
            scores=tensors.get("score", []),
            probabilities=[flat[i : i + classes] for i in range(0, len(flat), classes)] if classes else [],
        )

    def metadata(self, endpoint: str) -> dict[str, Any]:
        """The endpoint's inputs and outputs (name → datatype and shape), versions, and the field of its unit."""
        request = oip.message("ModelMetadataRequest")(name=endpoint)
        reply, _ = self._call("ModelMetadata", request, "ModelMetadataResponse", 10.0)
        return {
            "name": reply.name,
            "versions": list(reply.versions),
            "hash_field": reply.parameters["hash_field"].string_param,
            "inputs": {t.name: (t.datatype, list(t.shape)) for t in reply.inputs},
            "outputs": {t.name: (t.datatype, list(t.shape)) for t in reply.outputs},
        }

    def text_features(self, endpoint: str) -> set[str]:
        """The endpoint's features that are categories, given as text."""
        return {
            name for name, (datatype, _) in self.metadata(endpoint)["inputs"].items() if datatype == "BYTES"
        }

    def _hash_field(self, endpoint: str) -> str:
        if endpoint not in self._hash_fields:
            self._hash_fields[endpoint] = self.metadata(endpoint)["hash_field"]
        return self._hash_fields[endpoint]

    def is_ready(self, endpoint: str = "") -> bool:
        """Whether the gateway, or one endpoint, can answer."""
        name = "Model" if endpoint else "Server"
        request = oip.message(f"{name}ReadyRequest")()
        if endpoint:
            request.name = endpoint
        reply, _ = self._call(f"{name}Ready", request, f"{name}ReadyResponse", 10.0)
        return bool(reply.ready)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, request: Any, reply: str, timeout_s: float) -> tuple[Any, dict[str, str]]:
        call: Any = self._channel.unary_unary(
            f"{oip.SERVICE}/{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=oip.message(reply).FromString,
        )
        # Predictions are traced where the caller traces: a span for each would cost more than most models.
        parent = tracing.traceparent()
        metadata = [*self._metadata, (tracing.TRACEPARENT, parent)] if parent else self._metadata
        try:
            answer, state = call.with_call(request, timeout=timeout_s, metadata=tuple(metadata))
        except grpc.RpcError as raw:
            error = from_rpc_error(raw, self.address)
            error.trace_id = tracing.trace_id_of(parent) if parent else ""
            raise error from None
        return answer, {key: str(value) for key, value in state.initial_metadata()}


def _request(endpoint: str, rows: Sequence[Mapping[str, Value]], version: str, request_id: str) -> Any:
    if not rows:
        raise Invalid("there are no rows to predict for", code="no_rows")
    request = oip.message("ModelInferRequest")(model_name=endpoint, model_version=version, id=request_id)
    for name in dict.fromkeys(name for row in rows for name in row):
        column = [row.get(name) for row in rows]
        datatype, raw = _encode(name, column)
        request.inputs.add(name=name, datatype=datatype, shape=[len(rows), 1])
        request.raw_input_contents.append(raw)
    return request


def _encode(name: str, column: list[Value]) -> tuple[str, bytes]:
    given = [v for v in column if v is not None]
    if any(isinstance(v, str) for v in given):
        if not all(isinstance(v, str) for v in given):
            raise Invalid(f"feature {name!r} mixes text and numbers", code="mixed_types")
        encoded = [str(v or "").encode() for v in column]
        return "BYTES", b"".join(struct.pack("<I", len(v)) + v for v in encoded)
    if all(isinstance(v, bool) for v in column):
        return "BOOL", struct.pack(f"<{len(column)}?", *column)
    if all(type(v) is int and -_INT64 <= v < _INT64 for v in column):
        return "INT64", struct.pack(f"<{len(column)}q", *column)
    try:
        numbers = [float("nan") if v is None else float(v) for v in column]
    except (TypeError, ValueError) as error:
        raise Invalid(f"feature {name!r}: {error}", code="bad_value") from error
    return "FP64", struct.pack(f"<{len(numbers)}d", *numbers)


def _tensors(reply: Any) -> dict[str, list[Any]]:
    return {
        output.name: _decode(output.datatype, raw)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def _decode(datatype: str, raw: bytes) -> list[Any]:
    if datatype == "BYTES":
        texts, at = [], 0
        while at < len(raw):
            (length,) = struct.unpack_from("<I", raw, at)
            texts.append(raw[at + 4 : at + 4 + length].decode())
            at += 4 + length
        return texts
    code = _NUMERIC[datatype]
    return list(struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw))
