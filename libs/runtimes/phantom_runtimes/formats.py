"""What a file is, told by its content and never by its name."""

import re
import zipfile
from pathlib import Path
from typing import Literal

from phantom_runtimes.errors import Invalid

Format = Literal["xgboost-json", "xgboost-ubj", "onnx", "skops", "pickle"]
Framework = Literal["xgboost", "onnx", "scikit-learn"]

FRAMEWORKS: dict[Framework, tuple[Format, ...]] = {
    "xgboost": ("xgboost-json", "xgboost-ubj"),
    "onnx": ("onnx",),
    "scikit-learn": ("skops", "pickle"),
}
_UBJ_LENGTHS = b"iUIlL"  # markers of the integer types that may start a key's length
_COMPRESSED = (
    b"\x1f\x8b",
    b"\x78\x01",
    b"\x78\x5e",
    b"\x78\x9c",
    b"\x78\xda",
    b"BZh",
    b"\xfd7zXZ",
    b"\x5d\x00\x00",
)


def sniff(path: Path) -> Format:
    """The artifact's format. A joblib file is a pickle. Invalid `unknown_format` where it is none we know."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise Invalid("unknown_format", "the artifact is empty")
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return "pickle"
    if head.startswith(_COMPRESSED):
        return "pickle"  # joblib compresses the pickle; nothing else that we know starts so
    text = head.lstrip(b" \t\r\n")
    if text.startswith(b"{"):
        after = text[1:].lstrip(b" \t\r\n")
        if text is head and len(head) > 1 and head[1] in _UBJ_LENGTHS:
            return "xgboost-ubj"
        if after.startswith((b'"', b"}")):
            return "xgboost-json"
    if _is_onnx(path):
        return "onnx"
    if re.match(rb"\(|c[\w.]+\n", head):
        return "pickle"  # protocols 0 and 1
    raise Invalid(
        "unknown_format",
        f"the artifact starts with {head[:8]!r}, which is none of XGBoost JSON or UBJ, ONNX, skops and pickle",
    )


def check_framework(found: Format, framework: str) -> Framework:
    """The framework, if files of this format belong to it; else Invalid."""
    for known, formats in FRAMEWORKS.items():
        if known == framework:
            if found in formats:
                return known
            raise Invalid(
                "wrong_format",
                f"the artifact is {found}, but was registered as {framework}, which takes {' or '.join(formats)}",
                found=found,
            )
    raise Invalid(
        "unknown_framework", f"there is no runtime for {framework!r:.80}; there are {', '.join(FRAMEWORKS)}"
    )


def _sniff_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise Invalid("unknown_format", f"the artifact is a broken zip file: {error}") from error
    if "schema.json" in names:
        return "skops"
    raise Invalid("unknown_format", "the artifact is a zip file without schema.json, so it is no skops file")


def _is_onnx(path: Path) -> bool:
    """Whether the top level reads as an onnx.ModelProto that has a graph."""
    size = path.stat().st_size
    has_graph = False
    with path.open("rb") as file:
        while file.tell() < size:
            key = _varint(file.read(1), file)
            if key is None or not 1 <= key >> 3 <= 26 or key & 7 not in (0, 2):
                return False
            value = _varint(file.read(1), file)
            if value is None:
                return False
            if key & 7 == 2:
                if file.tell() + value > size:
                    return False
                has_graph |= key >> 3 == 7
                file.seek(value, 1)
    return has_graph


def _varint(first: bytes, file) -> int | None:  # type: ignore[no-untyped-def]
    value, shift, byte = 0, 0, first
    while byte and shift < 63:
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
        byte = file.read(1)
    return None
