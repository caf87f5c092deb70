"""The head of a gRPC request: which method, by when, with what metadata; and metadata as a block of headers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from phantom_platform.http2.headers import Pairs, text

Metadata = Iterable[tuple[str, str | bytes]]

_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OF_PROTOCOL = frozenset(
    (
        b"te",
        b"content-type",
        b"content-length",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
    )
)
_PSEUDO = frozenset((b":method", b":path", b":scheme", b":authority"))
_OF_CONNECTION = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
# What a name is made of (RFC 9110 §5.6.2, in lower case), what no value may hold (RFC 9113 §8.2.1), what gRPC sends.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NEVER = re.compile(rb"[\0\r\n]")
_UNSENT = re.compile(rb"[^ -~]")
# Of a status message: the bytes that are escaped, and an escape.
_ESCAPED = re.compile(rb"[^ -$&-~]")
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")
_MAX_NAMES = 256
_names_read: dict[bytes, str] = {}
_names_written: dict[str, bytes] = {}


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Shared by all requests that came with the same block: not to be changed."""

    # Whether it is gRPC at all: POST, and its content type.
    is_grpc: bool
    path: str
    # None where the client gave no deadline.
    timeout_s: float | None = None
    encoding: bytes = b"identity"
    metadata: tuple[tuple[str, Any], ...] = ()
    content_length: int | None = None
    # The header that is malformed, where one is.
    bad: str = ""


TRAILERS = RequestHead(False, "")
"""Read from a block without pseudo-headers: fields that follow a request. None of them means anything to gRPC."""
TOO_LARGE = RequestHead(True, "")
"""Stands for a head that is larger than is taken."""


def read_request(pairs: Pairs) -> RequestHead | None:
    """None where they are no request's (RFC 9113 §8.3); TRAILERS where they could follow one."""
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
        else:
            key = _names_read.get(name) or _read_name(name)
            if key is None or _NEVER.search(value) is not None:
                return None
            if key[-4:] != "-bin":
                metadata.append((key, value.decode("latin-1")))
            elif (values := read_binary(value)) is None:
                bad = key
            else:
                metadata += [(key, each) for each in values]
    if not pseudo:
        return TRAILERS
    length = own.get(b"content-length", b"0")
    if (
        not {b":method", b":path", b":scheme"} <= pseudo.keys()
        or not pseudo[b":path"]
        or own.get(b"te", b"trailers") != b"trailers"
        or not length.isdigit()
        or len(length) > 15
    ):
        return None
    timeout = own.get(b"grpc-timeout")
    timeout_s = None if timeout is None else read_timeout(timeout)
    return RequestHead(
        pseudo[b":method"] == b"POST" and is_grpc(own.get(b"content-type", b"")),
        pseudo[b":path"].decode("latin-1"),
        timeout_s,
        own.get(b"grpc-encoding", b"identity"),
        tuple(metadata),
        int(length) if b"content-length" in own else None,
        "grpc-timeout" if timeout is not None and timeout_s is None else bad,
    )


def is_grpc(content_type: bytes) -> bool:
    """`application/grpc`, alone or with a codec or parameters; not `application/grpc-web`, which frames otherwise."""
    return content_type[:16] == b"application/grpc" and content_type[16:17] in (b"", b"+", b";")


def _read_name(name: bytes) -> str | None:
    """A field's name; None where it is malformed, or speaks of a connection."""
    if _NAME.fullmatch(name) is None or name in _OF_CONNECTION:
        return None
    key = name.decode("ascii")
    if len(_names_read) < _MAX_NAMES:
        _names_read[name] = key
    return key


def read_binary(value: bytes) -> list[bytes] | None:
    """The values of a `-bin` field, of which proxies join several with commas; None where it is malformed."""
    try:
        return [
            base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
            for part in map(bytes.strip, value.split(b","))
        ]
    except binascii.Error:
        return None


class Block(bytes):
    """Metadata as `metadata_block` has encoded it before, for who sends the same again and again."""


def metadata_block(metadata: Metadata | Block) -> bytes:
    """Literal fields outside the peer's table. Raises ValueError or TypeError where HTTP has no way to say it."""
    if isinstance(metadata, Block):
        return metadata
    return b"".join(
        [
            (_names_written.get(name) or _write_name(name)) + text(write_value(name, value))
            for name, value in metadata
        ]
    )


def _write_name(name: str) -> bytes:
    """What a field begins with."""
    raw = name.encode()
    if _NAME.fullmatch(raw) is None or raw in _OF_CONNECTION:
        raise ValueError(f"metadata has an illegal key: {name!r}")
    written = b"\x00" + text(raw)
    if len(_names_written) < _MAX_NAMES:
        _names_written[name] = written
    return written


def write_value(name: str, value: str | bytes) -> bytes:
    """A metadata value as it is sent. Raises ValueError where it is not printable ASCII and its key is not binary."""
    raw = value.encode() if isinstance(value, str) else value
    if name[-4:] == "-bin":
        return base64.b64encode(raw).rstrip(b"=")
    if _UNSENT.search(raw) is not None:
        raise ValueError(f"metadata {name!r} is not printable ASCII; a key that ends in -bin takes any bytes")
    return raw


def read_timeout(value: bytes) -> float | None:
    """Seconds; None where it is malformed (at most 8 digits and a unit)."""
    digits, unit = value[:-1], value[-1:].decode("latin-1")
    if not digits.isdigit() or len(digits) > 8 or unit not in _UNITS_S:
        return None
    return int(digits) * _UNITS_S[unit]


def percent_encoded(message: str) -> bytes:
    """A status message as `grpc-message` carries it."""
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], message.encode("utf-8", "replace"))


def percent_decoded(message: bytes) -> str:
    """The reverse; what is malformed stays as it is."""
    raw = _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), message)
    return raw.decode("utf-8", "replace")
