"""The head of a gRPC request: which method, by when, with what metadata."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from phantom_platform.http2.headers import Pairs

_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OF_PROTOCOL = frozenset((b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"))
_PSEUDO = frozenset((b":method", b":path", b":scheme", b":authority"))
_OF_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Shared by all requests that came with the same block: not to be changed."""

    method: str
    path: str
    content_type: str
    # None where the client gave no deadline.
    timeout_s: float | None
    encoding: bytes
    metadata: tuple[tuple[str, Any], ...]
    # The header that is malformed, where one is.
    bad: str = ""


def read_request(pairs: Pairs) -> RequestHead | None:
    """None where they are no request's (RFC 9113 §8.3)."""
    pseudo: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    metadata: list[tuple[str, Any]] = []
    bad = ""
    for name, value in pairs:
        if name[:1] == b":":
            if name not in _PSEUDO or name in pseudo or own or metadata:
                return None
            pseudo[name] = value
        elif name in _OF_PROTOCOL:
            own[name] = value
        elif name in _OF_CONNECTION or name.lower() != name:
            return None
        else:
            key = name.decode("latin-1")
            read = read_value(key, value)
            if read is None:
                bad = key
            metadata.append((key, read))
    if not {b":method", b":path", b":scheme"} <= pseudo.keys() or not pseudo[b":path"]:
        return None
    if own.get(b"te", b"trailers") != b"trailers":
        return None
    timeout = own.get(b"grpc-timeout")
    timeout_s = None if timeout is None else read_timeout(timeout)
    return RequestHead(
        pseudo[b":method"].decode("latin-1"),
        pseudo[b":path"].decode("latin-1"),
        own.get(b"content-type", b"").decode("latin-1"),
        timeout_s,
        own.get(b"grpc-encoding", b"identity"),
        tuple(metadata),
        "grpc-timeout" if timeout is not None and timeout_s is None else bad,
    )


def read_value(name: str, value: bytes) -> str | bytes | None:
    """A metadata value: text, or bytes for a name that ends in `-bin`; None where it is malformed."""
    if not name.endswith("-bin"):
        return value.decode("latin-1")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return None


def write_value(name: str, value: str | bytes) -> bytes:
    """The reverse, of metadata that we send."""
    raw = value.encode() if isinstance(value, str) else value
    return base64.b64encode(raw).rstrip(b"=") if name.endswith("-bin") else raw


def read_timeout(value: bytes) -> float | None:
    """Seconds; None where it is malformed (at most 8 digits and a unit)."""
    digits, unit = value[:-1], value[-1:].decode("latin-1")
    if not digits.isdigit() or len(digits) > 8 or unit not in _UNITS_S:
        return None
    return int(digits) * _UNITS_S[unit]


def percent_encoded(message: str) -> bytes:
    """A status message as `grpc-message` carries it."""
    out = bytearray()
    for byte in message.encode():
        if 0x20 <= byte <= 0x7E and byte != 0x25:
            out.append(byte)
        else:
            out += b"%%%02X" % byte
    return bytes(out)


def percent_decoded(message: bytes) -> str:
    """The reverse; what is malformed stays as it is."""
    out, at = bytearray(), 0
    while at < len(message):
        byte = message[at]
        digits = message[at + 1 : at + 3]
        at += 1
        if byte == 0x25 and len(digits) == 2:
            try:
                byte = int(digits, 16)
                at += 2
            except ValueError:
                byte = 0x25
        out.append(byte)
    return out.decode("utf-8", "replace")
