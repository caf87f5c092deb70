"""HTTP/2 frames as bytes (RFC 9113 §4, §6): constants and what builds them."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">HBBBL")
"""A frame's head: length (16 + 8 bits), type, flags, stream id."""
HEAD_BYTES = 9

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
MAX_HEADER_LIST_SIZE = 6

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, _, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, _, ENHANCE_YOUR_CALM = range(7, 12)

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
MAX_WINDOW = 2**31 - 1

_SETTING = struct.Struct(">HL")
_WORD = struct.Struct(">L")
_GOAWAY = struct.Struct(">LL")


class ConnectionError_(Exception):  # noqa: N801 - the builtin has its name
    """The peer broke the protocol: the connection ends with GOAWAY and this code (RFC 9113 §5.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamError(Exception):
    """One stream ends with RST_STREAM and this code (RFC 9113 §5.4.2)."""

    def __init__(self, stream_id: int, code: int) -> None:
        super().__init__(f"stream {stream_id}: error {code}")
        self.stream_id = stream_id
        self.code = code


def head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload of `length` bytes."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return head(len(payload), SETTINGS, 0, 0) + payload


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Raises ConnectionError_ where a value is out of its range."""
    if len(payload) % 6:
        raise ConnectionError_(FRAME_SIZE_ERROR, "SETTINGS is not a multiple of 6 bytes")
    values = [
        (int(name), int(value))
        for name, value in (_SETTING.unpack_from(payload, at) for at in range(0, len(payload), 6))
    ]
    for name, value in values:
        if name == ENABLE_PUSH and value > 1:
            raise ConnectionError_(PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionError_(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31 - 1")
        if name == MAX_FRAME_SIZE and not DEFAULT_FRAME_BYTES <= value < 1 << 24:
            raise ConnectionError_(PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")
    return values


SETTINGS_ACK = head(0, SETTINGS, ACK, 0)


def ping(payload: bytes, flags: int = 0) -> bytes:
    return head(8, PING, flags, 0) + payload


def goaway(last_stream_id: int, code: int, message: bytes = b"") -> bytes:
    return head(8 + len(message), GOAWAY, 0, 0) + _GOAWAY.pack(last_stream_id, code) + message


def read_goaway(payload: bytes) -> tuple[int, int]:
    """Last stream id and error code."""
    if len(payload) < _GOAWAY.size:
        raise ConnectionError_(FRAME_SIZE_ERROR, "GOAWAY is too short")
    last, code = _GOAWAY.unpack_from(payload)
    return last & MAX_WINDOW, code


def window_update(stream_id: int, increment: int) -> bytes:
    return head(4, WINDOW_UPDATE, 0, stream_id) + _WORD.pack(increment)


def rst_stream(stream_id: int, code: int) -> bytes:
    return head(4, RST_STREAM, 0, stream_id) + _WORD.pack(code)


def read_word(payload: bytes) -> int:
    """The 32 bits of a WINDOW_UPDATE or RST_STREAM."""
    if len(payload) != _WORD.size:
        raise ConnectionError_(FRAME_SIZE_ERROR, "a frame of 4 bytes has another length")
    value: int = _WORD.unpack(payload)[0]
    return value


def header_frames(stream_id: int, block: bytes, flags: int, max_frame: int) -> bytes:
    """HEADERS, with CONTINUATIONs where the block needs them."""
    if len(block) <= max_frame:
        return head(len(block), HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [head(max_frame, HEADERS, flags, stream_id), block[:max_frame]]
    for at in range(max_frame, len(block), max_frame):
        piece = block[at : at + max_frame]
        last = END_HEADERS if at + max_frame >= len(block) else 0
        parts += (head(len(piece), CONTINUATION, last, stream_id), piece)
    return b"".join(parts)


def unpadded(payload: bytes, flags: int, has_priority: bool, stream_id: int) -> bytes:
    """The payload of DATA or HEADERS without padding and priority."""
    at, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionError_(FRAME_SIZE_ERROR, "a padded frame is empty")
        end -= payload[0]
        at = 1
    if has_priority and flags & WITH_PRIORITY:
        if end - at >= 5 and _WORD.unpack_from(payload, at)[0] & MAX_WINDOW == stream_id:
            raise ConnectionError_(PROTOCOL_ERROR, "a stream depends on itself")
        at += 5
    if at > end:
        raise ConnectionError_(PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[at:end]
