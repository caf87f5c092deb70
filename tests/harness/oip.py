"""The inference protocol as any application speaks it: messages, raw bytes, the stream, REST."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from google.rpc import error_details_pb2, status_pb2

from harness.stack import Stack
from phantom_ml_studio import oip

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "/inference.GRPCInferenceService"


def request(
    model: str, columns: Mapping[str, Sequence[Any]], *, version: str = "", id: str = "", **parameters: str
) -> Any:
    """A ModelInferRequest with one raw tensor a column: FP64, or BYTES for texts."""
    message = oip.message("ModelInferRequest")(model_name=model, model_version=version, id=id)
    for name, column in columns.items():
        is_text = any(isinstance(value, str) for value in column)
        raw = _texts(column) if is_text else struct.pack(f"<{len(column)}d", *column)
        message.inputs.add(name=name, datatype="BYTES" if is_text else "FP64", shape=[len(column), 1])
        message.raw_input_contents.append(raw)
    for name, value in parameters.items():
        message.parameters[name].string_param = value
    return message


def _texts(column: Sequence[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in column)


@dataclass(frozen=True)
class Reply:
    """A unary answer."""

    message: Any
    headers: dict[str, str]

    def floats(self, name: str) -> list[float]:
        """An FP32 output."""
        return list(struct.unpack(f"<{len(self.raw(name)) // 4}f", self.raw(name)))

    def texts(self, name: str) -> list[str]:
        """A BYTES output."""
        raw, found = self.raw(name), []
        while raw:
            (length,) = struct.unpack_from("<I", raw)
            found.append(raw[4 : 4 + length].decode())
            raw = raw[4 + length :]
        return found

    def raw(self, name: str) -> bytes:
        """An output's bytes."""
        names = [output.name for output in self.message.outputs]
        return self.message.raw_output_contents[names.index(name)]


class Door:
    """A gateway's two doors."""

    def __init__(self, stack: Stack) -> None:
        self.channel = grpc.insecure_channel(stack.grpc, options=_OPTIONS)
        self.rest = httpx.Client(base_url=f"http://{stack.http}", timeout=30)

    def infer(self, message: Any, metadata: Mapping[str, str] | None = None, timeout_s: float = 30) -> Reply:
        """ModelInfer of a message or of raw bytes. Raises grpc.RpcError."""
        body = message if isinstance(message, bytes) else message.SerializeToString()
        call = self.channel.unary_unary(f"{SERVICE}/ModelInfer")
        answer, state = call.with_call(body, timeout=timeout_s, metadata=tuple((metadata or {}).items()))
        headers = {key: str(value) for key, value in state.initial_metadata()}
        return Reply(oip.message("ModelInferResponse").FromString(answer), headers)

    def ask(self, method: str, **fields: str) -> Any:
        """One of the other unary methods."""
        call = self.channel.unary_unary(f"{SERVICE}/{method}")
        body = oip.message(f"{method}Request")(**fields).SerializeToString()
        return oip.message(f"{method}Response").FromString(call(body, timeout=10))

    def stream(self, messages: Iterable[Any], metadata: Mapping[str, str] | None = None) -> list[Any]:
        """ModelStreamInferResponses to these messages (or bytes)."""
        call = self.channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        bodies = (m if isinstance(m, bytes) else m.SerializeToString() for m in messages)
        answers = call(bodies, timeout=30, metadata=tuple((metadata or {}).items()))
        return [oip.message("ModelStreamInferResponse").FromString(answer) for answer in answers]

    def close(self) -> None:
        """Close both."""
        self.channel.close()
        self.rest.close()


@dataclass(frozen=True)
class Failure:
    """A failed call: status name, stable code, message."""

    status: str
    code: str
    message: str


def failure(error: grpc.RpcError) -> Failure:
    """What a failed call says."""
    info, status = error_details_pb2.ErrorInfo(), status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.MergeFromString(value)
    for detail in status.details:
        detail.Unpack(info)
    return Failure(error.code().name, info.reason, error.details() or "")
