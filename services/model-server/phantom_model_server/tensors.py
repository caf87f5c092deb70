"""The values of one OIP tensor, out of raw bytes or typed contents, checked to the byte.

Everything here raises `Invalid` that names the tensor, what was expected and what came.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from phantom_platform.errors import Invalid

if TYPE_CHECKING:
    from inference.grpc_service_pb2 import ModelInferRequest

MAX_TEXT_BYTES = 1024
"""Of one category. Longer ones cannot be categories, and the prediction log would have to carry them."""

# datatype → (little-endian layout, typed field, what it becomes)
NUMERIC: dict[str, tuple[str, str, type]] = {
    "FP32": ("<f4", "fp32_contents", np.float32),
    "FP64": ("<f8", "fp64_contents", np.float64),
    "FP16": ("<f2", "", np.float32),
    "INT8": ("<i1", "int_contents", np.float32),
    "INT16": ("<i2", "int_contents", np.float32),
    "INT32": ("<i4", "int_contents", np.float64),
    "INT64": ("<i8", "int64_contents", np.float64),
    "UINT8": ("<u1", "uint_contents", np.float32),
    "UINT16": ("<u2", "uint_contents", np.float32),
    "UINT32": ("<u4", "uint_contents", np.float64),
    "UINT64": ("<u8", "uint64_contents", np.float64),
    "BOOL": ("<u1", "bool_contents", np.float32),
}
_WIDTHS = {datatype: np.dtype(layout).itemsize for datatype, (layout, _, _) in NUMERIC.items()}


def shown(text: object, limit: int = 80) -> str:
    """A client's text as it may stand in a message: escaped and short."""
    quoted = ascii(text)
    return quoted if len(quoted) <= limit else f"{quoted[:limit]}…"


def wrong(code: str, tensor: str, expected: str, came: str) -> Invalid:
    """The error of a tensor that is not as the schema wants it."""
    return Invalid(
        f"tensor {shown(tensor)}: expected {expected}, got {came}",
        code=code,
        tensor=tensor[:80],
        expected=expected,
        found=came,
    )


def raw_contents(request: ModelInferRequest) -> Sequence[bytes]:
    """The contents of a request that has raw ones, one an input."""
    raw = request.raw_input_contents
    check_count(len(raw), len(request.inputs))
    for tensor in request.inputs:
        if tensor.HasField("contents") and tensor.contents.ByteSize():
            raise Invalid(
                f"tensor {shown(tensor.name)} has typed contents beside raw_input_contents; send one of them",
                code="mixed_contents",
                tensor=tensor.name[:80],
            )
    return raw


def check_count(came: int, inputs: int) -> None:
    """As many raw contents came as there are inputs."""
    if came != inputs:
        raise Invalid(
            f"raw_input_contents has {came} entries for {inputs} inputs; it needs one an input, in order",
            code="wrong_length",
        )


def check_length(tensor: str, datatype: str, raw: bytes, count: int) -> None:
    """Raw bytes of a numeric tensor are exactly `count` values."""
    wanted = count * _WIDTHS[datatype]
    if len(raw) != wanted:
        expected = f"{wanted} bytes ({count} × {datatype})"
        raise wrong("wrong_length", tensor, expected, f"{len(raw)} bytes")


def from_raw(datatype: str, raw: bytes) -> npt.NDArray[Any]:
    """Flat numbers of raw bytes whose length was checked; float32 or float64."""
    layout, _, kind = NUMERIC[datatype]
    values = np.frombuffer(raw, dtype=layout)
    if datatype == "BOOL":
        values = values != 0
    return values.astype(kind, copy=False)


def from_typed(tensor: Any, count: int) -> npt.NDArray[Any]:
    """Flat numbers of a tensor's typed contents; float32 or float64."""
    datatype = tensor.datatype
    layout, field, kind = NUMERIC[datatype]
    if not field:
        raise wrong("wrong_datatype", tensor.name, f"raw_input_contents for {datatype}", "typed contents")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        came = ", ".join(f"{len(got)} in {each.name}" for each, got in tensor.contents.ListFields()) or "none"
        raise wrong("wrong_length", tensor.name, f"{count} values in {field}", came)
    if (kind is np.float32 and layout[1] == "f") or datatype == "BOOL":
        return np.array(values, dtype=np.float32)
    if layout[1] == "f":
        return np.array(values, dtype=np.float64)
    integers = np.array(values, dtype=np.uint64 if layout[1] == "u" else np.int64)
    bounds = np.iinfo(layout)
    if ((integers < bounds.min) | (integers > bounds.max)).any():
        raise wrong(
            "value_out_of_range",
            tensor.name,
            f"{datatype} from {bounds.min} to {bounds.max}",
            "a value outside",
        )
    return integers.astype(kind)


def typed_texts(tensor: Any, count: int) -> list[str]:
    """The texts of a BYTES tensor's typed contents."""
    values = list(tensor.contents.bytes_contents)
    if len(values) != count:
        raise wrong("wrong_length", tensor.name, f"{count} values in bytes_contents", str(len(values)))
    return _decoded(tensor.name, values)


def raw_texts(tensor: str, raw: bytes, count: int) -> list[str]:
    """The texts of a BYTES tensor's raw contents."""
    return _decoded(tensor, _split(tensor, raw, count))


def _decoded(tensor: str, values: list[bytes]) -> list[str]:
    found = []
    for place, value in enumerate(values):
        if len(value) > MAX_TEXT_BYTES:
            raise wrong(
                "text_too_long", tensor, f"texts of at most {MAX_TEXT_BYTES} bytes", f"{len(value)} bytes"
            )
        try:
            found.append(value.decode())
        except UnicodeDecodeError as error:
            came = f"bytes that are no UTF-8 in row {place}"
            raise wrong("invalid_utf8", tensor, "UTF-8 text", came) from error
    return found


def _split(tensor: str, raw: bytes, count: int) -> list[bytes]:
    """Raw BYTES: per element a 4-byte little-endian length, then the bytes."""
    values: list[bytes] = []
    at, end = 0, len(raw)
    while at < end:
        if end - at < 4:
            raise wrong(
                "wrong_length", tensor, "a 4-byte length before each text", f"{end - at} bytes at the end"
            )
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if length > end - at:
            raise wrong("wrong_length", tensor, f"{length} bytes of text {len(values)}", f"{end - at} bytes")
        values.append(raw[at : at + length])
        at += length
        if len(values) > count:
            break
    if len(values) != count:
        raise wrong(
            "wrong_length", tensor, f"{count} texts", f"{'more' if len(values) > count else len(values)}"
        )
    return values
