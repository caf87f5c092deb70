"""Protobuf by hand, for the few messages of which every call makes one: a message object costs more than its bytes.

Fields are written without regard to their order, and messages merge by concatenation: both are what protobuf allows.
"""

from __future__ import annotations


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = tuple(_encode(value) for value in range(4096))


def varint(value: int) -> bytes:
    """A non-negative integer, base 128."""
    return _SMALL[value] if value < 4096 else _encode(value)


def tag(number: int, *, delimited: bool = True) -> bytes:
    """The start of a field: bytes, text or a message; else a varint."""
    return varint(number << 3 | (2 if delimited else 0))


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message; nothing where it is empty, as proto3 has it."""
    return b"".join((tag(number), varint(len(content)), content)) if content else b""
