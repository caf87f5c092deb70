"""Decompression that stops: at a size, at a ratio, and at the first byte that does not belong to the stream."""

import bz2
import lzma
import zlib
from typing import Protocol

from phantom_scanner.limits import Limits

_CHUNK = 1 << 20


class UnpackError(Exception):
    """The data cannot be unpacked, or not within the limits; `rule` is stable."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(what)
        self.rule = rule


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def decompress(data: bytes, name: str, limits: Limits) -> bytes:
    """The unpacked bytes of one stream of this compression; UnpackError where it is broken, a bomb, or goes on."""
    if name in ("zlib", "gzip"):
        return _zlib(data, 31 if name == "gzip" else 15, limits)
    if name == "bz2":
        return _stepwise(data, bz2.BZ2Decompressor(), limits)
    memory = 256 * 1024 * 1024
    form = lzma.FORMAT_XZ if name == "xz" else lzma.FORMAT_ALONE
    return _stepwise(data, lzma.LZMADecompressor(form, memlimit=memory), limits)


def inflate(data: bytes, limits: Limits) -> bytes:
    """A raw deflate stream, as zip files hold."""
    return _zlib(data, -15, limits)


def check_size(packed: int, unpacked: int, limits: Limits) -> None:
    """UnpackError where so much comes out of so little that it is meant to."""
    if unpacked > limits.unpacked_bytes:
        raise UnpackError("archive.bomb", f"it unpacks to more than {limits.unpacked_bytes} bytes")
    if unpacked > limits.ratio_from_bytes and unpacked > limits.ratio * max(1, packed):
        raise UnpackError("archive.bomb", f"it unpacks to more than {limits.ratio} times its {packed} bytes")


def _zlib(data: bytes, window: int, limits: Limits) -> bytes:
    machine = zlib.decompressobj(window)
    out = bytearray()
    rest = data
    try:
        while not machine.eof:
            piece = machine.decompress(rest, _CHUNK)
            rest = machine.unconsumed_tail
            if not piece and not rest:
                break
            out += piece
            check_size(len(data), len(out), limits)
    except zlib.error as error:
        raise UnpackError("archive.corrupt", f"it cannot be unpacked: {error}") from error
    return _finished(bytes(out), machine)


def _stepwise(data: bytes, machine: bz2.BZ2Decompressor | lzma.LZMADecompressor, limits: Limits) -> bytes:
    out = bytearray()
    feed = data
    try:
        while not machine.eof:
            piece = machine.decompress(feed, _CHUNK)
            feed = b""
            if not piece and machine.needs_input:
                break
            out += piece
            check_size(len(data), len(out), limits)
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise UnpackError("archive.corrupt", f"it cannot be unpacked: {error}") from error
    return _finished(bytes(out), machine)


def _finished(out: bytes, machine: _Decompressor) -> bytes:
    if not machine.eof:
        raise UnpackError("archive.corrupt", "its compressed stream breaks off")
    if machine.unused_data:
        raise UnpackError(
            "archive.trailing", f"{len(machine.unused_data)} bytes follow its compressed stream"
        )
    return out
