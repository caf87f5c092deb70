"""Sums as bytes: occupied places only, every array in the smallest integers that hold it."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantom_statistics.groups import GROUPS
from phantom_statistics.scores import BINS

_MAGIC = b"PS1\0"
_KINDS: tuple[np.dtype[Any], ...] = tuple(np.dtype(name) for name in ("<u1", "<u2", "<u4", "<i8", "<f8"))
_SIGNED, _FLOAT = 3, 4
SLOW_BINS = 64
_COUNTS = 5  # fields of a group that are counts; the sixth is a sum of log losses

Unpacked = tuple[
    NDArray[np.float64], NDArray[np.int64], dict[str, Any], dict[str, int], NDArray[np.int64], int
]


def pack(
    groups: NDArray[np.float64],
    slow: NDArray[np.int64],
    latency: dict[str, Any],
    classes: dict[str, int],
    scores: NDArray[np.int64],
    rows: int,
) -> bytes:
    """The bytes of `unpack`."""
    used = np.flatnonzero(groups.any(axis=1))
    flat = slow.ravel()
    slow_at, score_at = np.flatnonzero(flat), np.flatnonzero(scores)
    steps, counts = latency["steps"], latency["counts"]
    head = {
        "accuracy": latency["relative_accuracy"],
        "zeros": latency["zeros"],
        "refused": latency["refused"],
        "classes": classes,
        "rows": rows,
    }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    parts = [
        used,
        groups[used, :_COUNTS].ravel(),
        groups[used, _COUNTS],
        slow_at,
        flat[slow_at],
        score_at,
        scores[score_at],
        np.asarray(steps, dtype=np.int64),
        np.asarray(counts, dtype=np.int64),
    ]
    return b"".join([_MAGIC, struct.pack("<I", len(text)), text, *map(_array, parts)])


def unpack(data: bytes) -> Unpacked:
    """Groups, slow, the latency sketch as its mapping, classes, scores, rows; ValueError when it is no such thing."""
    try:
        if data[:4] != _MAGIC:
            raise ValueError("they do not begin as sums do")
        (length,) = struct.unpack_from("<I", data, 4)
        place = 8 + length
        head = json.loads(data[8:place])
        arrays = []
        for _ in range(9):
            array, place = _read(data, place)
            arrays.append(array)
        if place != len(data):
            raise ValueError(f"{len(data) - place} bytes are left over")
        return _rebuild(head, arrays)
    except (struct.error, KeyError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"these {len(data)} bytes are no sums: {error}") from error
    except ValueError as error:
        raise ValueError(f"these {len(data)} bytes are no sums: {error}") from error


def _rebuild(head: dict[str, Any], arrays: list[NDArray[Any]]) -> Unpacked:
    used, counts, losses, slow_at, slow_counts, score_at, score_counts, steps, latency_counts = arrays
    groups = np.zeros((GROUPS, _COUNTS + 1))
    groups[used, :_COUNTS] = counts.reshape(-1, _COUNTS)
    groups[used, _COUNTS] = losses
    slow = np.zeros(GROUPS * SLOW_BINS, dtype=np.int64)
    slow[slow_at] = slow_counts
    scores = np.zeros(BINS, dtype=np.int64)
    scores[score_at] = score_counts
    latency = {
        "relative_accuracy": head["accuracy"],
        "zeros": head["zeros"],
        "refused": head["refused"],
        "steps": steps.tolist(),
        "counts": latency_counts.tolist(),
    }
    return groups, slow.reshape(GROUPS, SLOW_BINS), latency, head["classes"], scores, head["rows"]


def _array(values: NDArray[Any]) -> bytes:
    kind = _kind(values)
    return struct.pack("<BI", kind, len(values)) + values.astype(_KINDS[kind]).tobytes()


def _kind(values: NDArray[Any]) -> int:
    if not len(values):
        return 0
    if values.dtype.kind == "f" and not (values == np.floor(values)).all():
        return _FLOAT
    if values.min() < 0:
        return _SIGNED
    largest = int(values.max())
    return next((kind for kind in range(_SIGNED) if largest < 2 ** (8 * _KINDS[kind].itemsize)), _SIGNED)


def _read(data: bytes, place: int) -> tuple[NDArray[Any], int]:
    kind, length = struct.unpack_from("<BI", data, place)
    dtype, start = _KINDS[kind], place + 5
    end = start + length * dtype.itemsize
    if end > len(data):
        raise ValueError("they end too early")
    return np.frombuffer(data, dtype=dtype, count=length, offset=start), end
