"""Segment files of the spill: what a batch looks like on disk, and how a damaged file is read.

A file is the magic text, then records: length and CRC-32 of the payload (little-endian uint32 each), then the
payload. A record is written by one `write`, so kill -9 leaves at most one torn record, at the end; a reader cuts
it. A record whose CRC is wrong is skipped and counted; what follows a length that cannot be is cut.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from phantom_inference_gateway.batches import Batch
from phantom_platform.telemetry import logs

log = logs.get(__name__)

MAGIC = b"PHSPILL1"
SUFFIX = ".spill"
MAX_RECORD_BYTES = 4 * 1024 * 1024

_FRAME = struct.Struct("<II")
# flags, sequence, time_ms, records, lengths of boot id, key and traceparent
_META = struct.Struct("<BQqIHHH")
_MAYBE_SENT = 1


@dataclass(slots=True, eq=False)
class Segment:
    """One file. It goes when all of it was read and nothing of it is unacknowledged."""

    path: Path
    partition: int
    order: int
    # Whether another process wrote it: then everything in it may have been sent.
    is_found: bool
    size: int = 0
    # Records handed to a reader and not acknowledged yet.
    unacknowledged: int = 0
    # Where the next record to read starts.
    position: int = len(MAGIC)
    is_read: bool = False
    # Records that could not be read.
    damaged: int = 0
    _write_fd: int = field(default=-1, repr=False)
    _read_fd: int = field(default=-1, repr=False)

    @classmethod
    def create(cls, folder: Path, partition: int, order: int) -> Segment:
        """A new, empty file, open for appending. Raises OSError."""
        path = folder / name_of(partition, order)
        segment = cls(path, partition, order, is_found=False)
        segment._write_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        segment._write(MAGIC)
        return segment

    @classmethod
    def found(cls, path: Path, partition: int, order: int) -> Segment | None:
        """A file that another process left; None where it is no segment (set aside) or empty (removed)."""
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
        if head == MAGIC and size > len(MAGIC):
            return cls(path, partition, order, is_found=True, size=size)
        if MAGIC.startswith(head):  # made, but nothing written
            path.unlink()
            return None
        set_aside(path, "it does not start as a segment does")
        return None

    @property
    def is_open(self) -> bool:
        """Whether records may still be appended."""
        return self._write_fd >= 0

    @property
    def is_done(self) -> bool:
        return self.is_read and self.unacknowledged == 0

    def append(self, batch: Batch) -> int:
        """Write a batch; returns its bytes on disk. Raises OSError, with the file as it was before."""
        return self._write(encode(batch))

    def seal(self) -> int:
        """No further record. Returns the descriptor, to be fsynced and closed; -1 where it was sealed already."""
        fd, self._write_fd = self._write_fd, -1
        return fd

    def duplicate_fd(self) -> int:
        """A descriptor of its own to fsync elsewhere. Only while it is open."""
        return os.dup(self._write_fd)

    def read(self) -> Batch | None:
        """The next batch; None at the end of what has been written."""
        while True:
            frame = self._read(self.position, _FRAME.size)
            length, crc = _FRAME.unpack(frame) if len(frame) == _FRAME.size else (0, 0)
            end = self.position + _FRAME.size + length
            if not length or length > MAX_RECORD_BYTES or end > self.size:
                self._end()
                return None
            payload = self._read(self.position + _FRAME.size, length)
            self.position = end
            batch = decode(payload, self.partition) if zlib.crc32(payload) == crc else None
            if batch is None:
                self.damaged += 1
                log.error("a spilled batch is damaged and lost", action="spill_damaged", file=self.path.name)
                continue
            batch.maybe_sent |= self.is_found
            self.unacknowledged += 1
            return batch

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the descriptors; what is on disk stays."""
        for fd in (self._write_fd, self._read_fd):
            if fd >= 0:
                os.close(fd)
        self._write_fd = self._read_fd = -1

    def _end(self) -> None:
        self.is_read = not self.is_open
        torn = self.size - self.position
        if torn and self.is_read:
            log.warning(
                "the end of a spill file was torn and is cut",
                action="spill_torn",
                file=self.path.name,
                bytes=torn,
            )

    def _read(self, position: int, count: int) -> bytes:
        if self._read_fd < 0:
            self._read_fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._read_fd, count, position)

    def _write(self, data: bytes) -> int:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._write_fd, data[written:] if written else data)
        except OSError:
            os.ftruncate(self._write_fd, self.size)
            os.lseek(self._write_fd, self.size, os.SEEK_SET)
            raise
        self.size += written
        return written


def encode(batch: Batch) -> bytes:
    """A batch as a record."""
    boot, key, trace = batch.boot_id.encode(), batch.key.encode(), batch.traceparent.encode()
    flags = _MAYBE_SENT if batch.maybe_sent else 0
    meta = _META.pack(flags, batch.sequence, batch.time_ms, batch.records, len(boot), len(key), len(trace))
    payload = b"".join((meta, boot, key, trace, batch.value))
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def decode(payload: bytes, partition: int) -> Batch | None:
    """The batch in a record's payload; None where it is none."""
    if len(payload) < _META.size:
        return None
    flags, sequence, time_ms, records, *lengths = _META.unpack_from(payload)
    texts, at = [], _META.size
    for length in lengths:
        texts.append(payload[at : at + length])
        at += length
    try:
        boot_id, key, trace = (text.decode() for text in texts)
    except UnicodeDecodeError:
        return None
    if at > len(payload) or not boot_id or not key:
        return None
    return Batch(
        partition, key, boot_id, sequence, payload[at:], records, time_ms, bool(flags & _MAYBE_SENT), trace
    )


def name_of(partition: int, order: int) -> str:
    """File names sort in the order in which they are sent."""
    return f"{partition:03d}-{order:012d}{SUFFIX}"


def parse_name(name: str) -> tuple[int, int] | None:
    """(partition, order), None where it is no segment's name."""
    partition, dash, order = name.removesuffix(SUFFIX).partition("-")
    if not (name.endswith(SUFFIX) and dash and partition.isascii() and order.isascii()):
        return None
    return (int(partition), int(order)) if partition.isdigit() and order.isdigit() else None


def set_aside(path: Path, reason: str) -> None:
    """Keep a file that we cannot read, out of the way, and say so."""
    path.replace(path.with_name(f"{path.name}.garbage"))
    log.error("a file in the spill was set aside", action="spill_garbage", file=path.name, reason=reason)
