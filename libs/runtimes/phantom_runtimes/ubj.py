"""A strict reader of the UBJSON that XGBoost writes (big-endian, arrays with a type or a count)."""

import struct
from typing import Any

import numpy as np

from phantom_runtimes.errors import Invalid, corrupt

_SCALARS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_INTEGERS = b"iUIlL"
_MAX_DEPTH = 64


def loads(raw: bytes) -> Any:
    """The document: dicts, lists, str, int, float, bool, None; typed arrays as numpy arrays.

    Invalid `corrupt_model` for anything out of bounds, repeated keys, unknown markers and trailing bytes.
    """
    reader = _Reader(raw)
    value = reader.value(reader.take(1), 0)
    if reader.at != len(raw):
        raise corrupt(f"the UBJ document ends at byte {reader.at} of {len(raw)}")
    return value


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.raw):
            raise self.bad(f"{size} bytes are announced, {len(self.raw) - self.at} are left")
        taken = self.raw[self.at : self.at + size]
        self.at += size
        return taken

    def bad(self, what: str) -> Invalid:
        return corrupt(f"the UBJ document is broken at byte {self.at}: {what}")

    def scalar(self, marker: bytes) -> Any:
        form = _SCALARS[marker]
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def length(self) -> int:
        marker = self.take(1)
        if marker not in [bytes([each]) for each in _INTEGERS]:
            raise self.bad(f"a length starts with {marker!r}")
        size = int(self.scalar(marker))
        if not 0 <= size <= len(self.raw):
            raise self.bad(f"a length of {size}")
        return size

    def text(self) -> str:
        try:
            return self.take(self.length()).decode()
        except UnicodeDecodeError as error:
            raise self.bad("a text is not UTF-8") from error

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self.bad(f"it is nested deeper than {_MAX_DEPTH}")
        if marker in _SCALARS:
            return self.scalar(marker)
        if marker == b"S":
            return self.text()
        if marker == b"{":
            return self.object(depth)
        if marker == b"[":
            return self.array(depth)
        if marker in (b"T", b"F"):
            return marker == b"T"
        if marker == b"Z":
            return None
        raise self.bad(f"an unknown marker {marker!r}")

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.raw[self.at : self.at + 1] != b"}":
            key = self.text()
            if key in found:
                raise self.bad(f"the key {key!r:.80} comes twice")
            found[key] = self.value(self.take(1), depth + 1)
        self.at += 1
        return found

    def array(self, depth: int) -> Any:
        following = self.raw[self.at : self.at + 1]
        if following == b"$":
            self.at += 1
            return self.typed_array()
        if following == b"#":
            self.at += 1
            return [self.value(self.take(1), depth + 1) for _ in range(self.length())]
        items = []
        while self.raw[self.at : self.at + 1] != b"]":
            items.append(self.value(self.take(1), depth + 1))
        self.at += 1
        return items

    def typed_array(self) -> Any:
        marker = self.take(1)
        if marker not in _SCALARS or self.take(1) != b"#":
            raise self.bad("a typed array of an unknown type or without a count")
        count = self.length()
        form = np.dtype(_SCALARS[marker])
        native = form.newbyteorder("=")
        return np.frombuffer(self.take(count * form.itemsize), dtype=form).astype(native)
