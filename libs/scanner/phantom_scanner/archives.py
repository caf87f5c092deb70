"""Zip and tar files, member by member: what a name, a link, a header or a size may not be.

Zip's facts stand in the file twice, and readers differ in which they believe: both are read and have to agree.
"""

import io
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise

from phantom_scanner.limits import Limits
from phantom_scanner.unpacking import UnpackError, check_size, inflate

_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_END = b"PK\x05\x06"
_DESCRIPTOR_FLAG = 0x08
_ENCRYPTION_FLAGS = 0x01 | 0x40 | 0x2000  # encrypted, strongly encrypted, masked headers


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with an archive."""

    rule: str
    place: str
    what: str


@dataclass(frozen=True, slots=True)
class Member:
    """The content of one regular member."""

    name: str
    data: bytes


def name_fault(name: str) -> str | None:
    """What is wrong with a member's name; None for a plain relative path."""
    parts = name.replace("\\", "/").split("/")
    if not name or "\x00" in name or any(unicodedata.category(letter) == "Cc" for letter in name):
        return "has control characters in its name, or no name"
    if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":"):
        return "has an absolute path"
    if ".." in parts:
        return "leads out of its folder"
    return "has backslashes in its name" if "\\" in name else None


def read_zip(data: bytes, limits: Limits) -> tuple[list[Fault], list[Member]]:
    """Faults, and the members that could be read."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, UnicodeError) as error:
        return [Fault("archive.corrupt", "end of the zip file", f"it is a broken zip file: {error}")], []
    faults = _around(data, archive, infos)
    faults += _twice([info.filename for info in infos])
    if len(infos) > limits.members:
        return [*faults, Fault("archive.bomb", "directory", f"it has {len(infos)} members")], []
    members: list[Member] = []
    spans: list[tuple[int, int, str]] = []
    total = 0
    for info in infos:
        try:
            faults += _entry_faults(data, info, spans)
            if info.is_dir():
                continue
            content = _content(data, info, limits)
            total += len(content)
            check_size(len(data), total, limits)
            members.append(Member(info.filename, content))
        except UnpackError as error:
            faults.append(Fault(error.rule, info.filename, str(error)))
            if error.rule == "archive.bomb":
                break
    return faults + _overlaps(spans), members


def _around(data: bytes, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> list[Fault]:
    """Bytes before the first member, behind the end, and a second end for other readers to find."""
    faults = []
    end = data.rfind(_END)
    if data.count(_END) > 1:
        faults.append(
            Fault("archive.ambiguous", "end", "it has several ends, and readers differ in which they take")
        )
    if end < 0 or len(data) - end != 22:
        faults.append(Fault("archive.trailing", "end", "bytes or a comment follow the end of the zip file"))
    first = min((info.header_offset for info in infos), default=0)
    if first != 0 or (infos and not data.startswith(b"PK\x03\x04")):
        faults.append(Fault("archive.prefix", "start", f"{first} bytes stand before the first member"))
    return faults


def _twice(names: list[str]) -> list[Fault]:
    seen: set[str] = set()
    faults = []
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold().rstrip("/. ")
        if plain in seen:
            faults.append(Fault("archive.duplicate", name, "the name comes twice (or twice but for case)"))
        seen.add(plain)
    return faults


def _entry_faults(data: bytes, info: zipfile.ZipInfo, spans: list[tuple[int, int, str]]) -> list[Fault]:
    """What the two headers of one member say, and whether they say the same."""
    at, found = info.header_offset, []
    if data[at : at + 4] != b"PK\x03\x04" or at + _LOCAL.size > len(data):
        raise UnpackError("archive.mismatch", "there is no header where the directory says it is")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(data, at)
    raw_name = data[at + _LOCAL.size : at + _LOCAL.size + name_length]
    start = at + _LOCAL.size + name_length + extra_length
    spans.append((at, start + info.compress_size, info.filename))
    wrong = name_fault(info.filename)
    if wrong:
        found.append(Fault("archive.path", info.filename, f"a member {wrong}"))
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        found.append(Fault("archive.link", info.filename, "a member is a link or a device"))
    if (flags | info.flag_bits) & _ENCRYPTION_FLAGS:
        found.append(Fault("archive.encrypted", info.filename, "a member says that it is encrypted"))
    encoded = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", errors="replace")
    if raw_name != encoded or (flags ^ info.flag_bits) & ~_DESCRIPTOR_FLAG or method != info.compress_type:
        found.append(
            Fault(
                "archive.mismatch",
                info.filename,
                "its header and the directory differ in name, flags or method",
            )
        )
    has_descriptor = flags & _DESCRIPTOR_FLAG
    announced = (crc, packed, size)
    real = (info.CRC, info.compress_size, info.file_size)
    is_zip64 = 0xFFFFFFFF in (packed, size)
    if not is_zip64 and announced != real and not (has_descriptor and announced == (0, 0, 0)):
        found.append(
            Fault(
                "archive.mismatch", info.filename, "its header and the directory differ in size or checksum"
            )
        )
    return found


def _content(data: bytes, info: zipfile.ZipInfo, limits: Limits) -> bytes:
    check_size(info.compress_size, info.file_size, limits)
    at = info.header_offset
    name_length, extra_length = struct.unpack_from("<HH", data, at + 26)
    start = at + _LOCAL.size + name_length + extra_length
    packed = data[start : start + info.compress_size]
    if len(packed) != info.compress_size:
        raise UnpackError("archive.corrupt", "it breaks off")
    if info.compress_type == zipfile.ZIP_STORED:
        content = packed
    elif info.compress_type == zipfile.ZIP_DEFLATED:
        content = inflate(packed, limits)
    else:
        raise UnpackError("archive.method", f"it is packed by method {info.compress_type}; 0 and 8 are known")
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise UnpackError(
            "archive.mismatch", "its content is not of the size and checksum that the directory gives"
        )
    return content


def _overlaps(spans: list[tuple[int, int, str]]) -> list[Fault]:
    ordered = sorted(spans)
    return [
        Fault("archive.overlap", name, f"it shares bytes with {before!r:.80}")
        for (_, end, before), (start, _, name) in pairwise(ordered)
        if start < end
    ]


def read_tar(data: bytes, limits: Limits) -> tuple[list[Fault], list[Member]]:
    """Faults, and the regular members."""
    faults: list[Fault] = []
    members: list[Member] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            infos = []
            for info in archive:
                infos.append(info)
                if len(infos) > limits.members:
                    return [*faults, Fault("archive.bomb", info.name, "it has too many members")], members
            for info in infos:
                faults += _tar_faults(info)
                file = archive.extractfile(info) if info.isreg() and not info.issparse() else None
                if file is not None:
                    members.append(Member(info.name, file.read()))
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        faults.append(Fault("archive.corrupt", "tar file", f"it is a broken tar file: {error}"))
    return faults + _twice([member.name for member in members]), members


def _tar_faults(info: tarfile.TarInfo) -> list[Fault]:
    found = []
    wrong = name_fault(info.name)
    if wrong:
        found.append(Fault("archive.path", info.name, f"a member {wrong}"))
    if info.issym() or info.islnk():
        found.append(Fault("archive.link", info.name, f"a member is a link to {info.linkname!r:.80}"))
    elif not (info.isreg() or info.isdir()):
        found.append(Fault("archive.link", info.name, "a member is a device or of an unknown type"))
    elif info.issparse():
        found.append(Fault("archive.bomb", info.name, "a member is sparse: larger than what is stored"))
    return found
