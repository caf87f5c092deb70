"""What a file is, by its content. Models as the runtimes tell them (`phantom_runtimes.formats`), and what else may lie
in a model's place: archives, compressed files, programs."""

import tempfile
from pathlib import Path

from phantom_runtimes.errors import Invalid
from phantom_runtimes.formats import sniff

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "lzma",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
_PROGRAMS = {
    b"\x7fELF": "an ELF program",
    b"MZ": "a Windows program",
    b"\xcf\xfa\xed\xfe": "a macOS program",
    b"\xfe\xed\xfa": "a macOS program",
    b"\xca\xfe\xba\xbe": "a Java class or macOS program",
    b"#!": "a script",
    b"\x00asm": "a WebAssembly program",
}


def compression(data: bytes) -> str | None:
    """The name of the compression that the bytes start with."""
    return next((name for magic, name in COMPRESSED.items() if data.startswith(magic)), None)


def program(data: bytes) -> str | None:
    """What kind of program the bytes start as."""
    return next((what for magic, what in _PROGRAMS.items() if data.startswith(magic)), None)


def kind(data: bytes) -> str:
    """zip, tar, npy, the name of a compression, one of the runtimes' formats, "program" or "unknown"."""
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if data[257:262] == b"ustar":
        return "tar"
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if program(data):
        return "program"
    packed = compression(data)
    if packed:
        return packed
    with tempfile.NamedTemporaryFile(prefix="phantom-scan-") as file:
        file.write(data)
        file.flush()
        try:
            return sniff(Path(file.name))
        except Invalid:
            return "unknown"
