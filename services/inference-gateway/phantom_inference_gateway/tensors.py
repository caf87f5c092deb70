"""Tensor data between JSON and the raw form of OIP (little-endian, row-major; BYTES with a 4-byte length each).

Rules where JSON and tensors disagree, stated once:
- `data` is flat, or nested exactly as `shape` says; anything between is refused.
- Numbers must fit their datatype; a fractional number in an integer tensor is refused, as is a number in a BOOL one.
- JSON has no NaN: `null` in an FP32 or FP64 tensor is NaN (a missing value), and NaN is answered as `null`.
  Infinity can be sent and asked for as binary data only.
- Every FP16 and FP32 is answered as the FP64 that equals it: 0.1 in FP32 as 0.10000000149011612.
- BYTES are UTF-8 strings; others are binary data only. FP16 and BF16 can be sent as binary data only.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantom_platform.errors import Invalid, Unsupported, Violation

_LENGTH = struct.Struct("<I")

WIDTHS = {
    "BOOL": 1,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes of one element; BYTES has no fixed width."""
DATATYPES = (*WIDTHS, "BYTES")

_NUMPY = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_MAX_ELEMENTS = 1 << 31


def integer_range(datatype: str) -> tuple[int, int]:
    """The least and the greatest value of an integer datatype."""
    bits = 8 * WIDTHS[datatype]
    return (0, (1 << bits) - 1) if datatype.startswith("U") else (-(1 << bits - 1), (1 << bits - 1) - 1)


def element_count(tensor: str, shape: Sequence[int]) -> int:
    """How many elements a shape holds; `Invalid` where no request could carry them."""
    count = 1
    for each in shape:
        count *= each
    if count > _MAX_ELEMENTS:
        raise wrong(tensor, f"shape {shape_text(shape)} holds {count} elements; at most {_MAX_ELEMENTS}")
    return count


def check_raw_size(tensor: str, datatype: str, shape: Sequence[int], size: int) -> None:
    """`Invalid` where raw data of so many bytes cannot be this tensor. BYTES are not looked into."""
    count = element_count(tensor, shape)
    width = WIDTHS.get(datatype)
    expected = count * (width or _LENGTH.size)
    if size != expected if width else size < expected:
        least = "" if width else "at least "
        text = f"expected {least}{expected} bytes for {datatype} {shape_text(shape)}, got {size}"
        raise wrong(tensor, text, code="wrong_length")


def raw_from_json(tensor: str, datatype: str, shape: Sequence[int], data: object) -> bytes:
    """The raw form of JSON `data`; raises `Invalid`, naming the tensor, what was expected and what came."""
    if datatype in ("FP16", "BF16"):
        text = f"{datatype} cannot be given as JSON; send it as binary data (binary_data_size)"
        raise wrong(tensor, text, code="wrong_datatype")
    flat = _flatten(tensor, shape, data)
    if datatype == "BYTES":
        return _pack_texts(tensor, flat)
    if datatype == "BOOL":
        _check_types(tensor, datatype, flat, {bool}, "true or false")
        return np.array(flat, _NUMPY[datatype]).tobytes()
    if datatype in ("FP32", "FP64"):
        return _pack_floats(tensor, datatype, flat)
    return _pack_integers(tensor, datatype, flat)


def json_from_raw(tensor: str, datatype: str, shape: Sequence[int], raw: bytes) -> NDArray[Any] | list[str]:
    """Flat data that orjson can write. Raises `Unsupported` for what JSON cannot express."""
    if datatype == "BYTES":
        return _unpack_texts(tensor, raw)
    kind = _NUMPY.get(datatype)
    if kind is None:
        raise _inexpressible(tensor, f"{datatype} has no JSON form")
    values = np.frombuffer(raw, kind)
    if kind.kind == "f" and np.isinf(values).any():
        raise _inexpressible(tensor, "it has infinite values")
    # As FP64, which holds each of them exactly: the shortest text that only a 32-bit reader takes for the same number
    # is another one to everybody else, since JSON's numbers are read as FP64 (46213432 would be sent as 46213430).
    return values.astype(np.float64) if kind.kind == "f" else values


def split_texts(raw: bytes) -> Iterator[bytes]:
    """The elements of raw BYTES. Raises ValueError where a length does not fit."""
    at, end = 0, len(raw)
    while at < end:
        if at + 4 > end:
            raise ValueError(f"{end - at} bytes are left where a length of 4 bytes should be")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        if at + length > end:
            raise ValueError(f"an element of {length} bytes is announced, {end - at} are left")
        yield raw[at : at + length]
        at += length


def join_texts(elements: Sequence[bytes]) -> bytes:
    """Elements as raw BYTES."""
    return b"".join([piece for each in elements for piece in (_LENGTH.pack(len(each)), each)])


def raw_from_typed(datatype: str, values: Sequence[Any]) -> bytes:
    """The raw form of an InferTensorContents field, as other servers answer."""
    if datatype == "BYTES":
        return join_texts(list(values))
    return np.array(values, _NUMPY[datatype]).tobytes()


def shape_text(shape: Sequence[int]) -> str:
    return "[" + ",".join(str(each) for each in shape) + "]"


def wrong(tensor: str, text: str, *, code: str = "wrong_shape") -> Invalid:
    """The error of one tensor."""
    return Invalid(code=code, violations=[Violation(f"input {tensor[:200]!r}", text)], tensor=tensor[:200])


def _flatten(tensor: str, shape: Sequence[int], data: object) -> list[Any]:
    if type(data) is not list:
        raise wrong(tensor, f"data must be an array, got {_kind(data)}", code="wrong_value")
    count = element_count(tensor, shape)
    if len(shape) > 1 and data and type(data[0]) is list:
        return _flatten_nested(tensor, shape, data)
    if len(data) != count and not (count == 0 and _is_hollow(data)):
        text = f"expected {count} values for shape {shape_text(shape)}, got {len(data)}"
        raise wrong(tensor, text)
    return data if count else []


def _flatten_nested(tensor: str, shape: Sequence[int], data: list[Any]) -> list[Any]:
    level = data
    if len(level) != shape[0]:
        raise wrong(tensor, f"expected {shape[0]} rows for shape {shape_text(shape)}, got {len(level)}")
    for depth, length in enumerate(shape[1:], start=1):
        for number, each in enumerate(level):
            if type(each) is not list or len(each) != length:
                got = len(each) if type(each) is list else _kind(each)
                text = (
                    f"expected arrays of {length} at depth {depth} for shape {shape_text(shape)}, "
                    f"got {got} at number {number}"
                )
                raise wrong(tensor, text)
        level = list(itertools.chain.from_iterable(level))
    return level


def _is_hollow(data: list[Any]) -> bool:
    return all(type(each) is list and _is_hollow(each) for each in data)


def _check_types(tensor: str, datatype: str, flat: list[Any], allowed: set[type], words: str) -> None:
    if set(map(type, flat)) <= allowed:
        return
    for number, each in enumerate(flat):
        if type(each) not in allowed:
            text = f"expected {words} for {datatype}, got {_kind(each)} at value {number}"
            raise wrong(tensor, text, code="wrong_value")


def _pack_integers(tensor: str, datatype: str, flat: list[Any]) -> bytes:
    low, high = integer_range(datatype)
    words = f"integers from {low} to {high}"
    _check_types(tensor, datatype, flat, {int}, words)
    if flat and not (low <= min(flat) and max(flat) <= high):
        number, value = next((n, v) for n, v in enumerate(flat) if not low <= v <= high)
        text = f"expected {words} for {datatype}, got {value} at value {number}"
        raise wrong(tensor, text, code="wrong_value")
    return np.array(flat, _NUMPY[datatype]).tobytes()


def _pack_floats(tensor: str, datatype: str, flat: list[Any]) -> bytes:
    _check_types(tensor, datatype, flat, {int, float, type(None)}, "numbers, or null for a missing one,")
    wide = np.array(flat, np.float64)
    with np.errstate(over="ignore"):
        values = wide.astype(_NUMPY[datatype])
    if np.isinf(values).any():
        number = int(np.flatnonzero(np.isinf(values))[0])
        text = f"expected numbers that {datatype} can hold, got {flat[number]} at value {number}"
        raise wrong(tensor, text, code="wrong_value")
    return values.tobytes()


def _pack_texts(tensor: str, flat: list[Any]) -> bytes:
    _check_types(tensor, "BYTES", flat, {str}, "strings")
    return join_texts([each.encode() for each in flat])


def _unpack_texts(tensor: str, raw: bytes) -> list[str]:
    try:
        return [each.decode() for each in split_texts(raw)]
    except UnicodeDecodeError:
        raise _inexpressible(tensor, "it has elements that are not UTF-8") from None


def _inexpressible(tensor: str, reason: str) -> Unsupported:
    return Unsupported(
        f"output {tensor[:200]!r} cannot be answered as JSON: {reason}; ask for it as binary data (parameter "
        "binary_data: true)",
        code="not_json",
        tensor=tensor[:200],
    )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value!r:.40}"
    return "a string" if isinstance(value, str) else "an array" if isinstance(value, list) else "an object"
