"""Batches that cannot go to Kafka now, on disk, in order, bounded.

One folder a worker, held by an exclusive lock; one first-in-first-out lane a partition, made of segment files
(`segments.py`). A segment is deleted after the last acknowledgement of what is in it.

What survives: a batch is in the file when `append` returns, so kill -9 of the process loses none. Files are
fsynced once a second by the owner (`sync`, in a thread) and at `close`, so a crash of the machine loses at most
about the last second. The bound holds for new batches; what comes back from the producer (at most 4 a partition)
may exceed it, since it is older than what would be dropped.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

from phantom_inference_gateway.batches import Batch
from phantom_inference_gateway.segments import SUFFIX, Segment, name_of, parse_name, set_aside
from phantom_platform.errors import Refused
from phantom_platform.telemetry import logs

log = logs.get(__name__)

SEGMENT_BYTES = 8 * 1024 * 1024
# Room before it for segments that must be sent earlier.
_FIRST_ORDER = 500_000_000_000
_OVERHEAD_BYTES = 400  # of a record and of a file, at most, beside the value
_NEVER_FULL = 1 << 62


class SpillLane:
    """The spilled batches of one partition."""

    def __init__(self, spill: Spill, partition: int) -> None:
        self._spill = spill
        self._partition = partition
        # In the order of sending: read to the end and partly acknowledged ones first, the open one last.
        self._segments: deque[Segment] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to read (what was read may be unacknowledged)."""
        return all(self._is_exhausted(segment) for segment in self._segments)

    @property
    def segments(self) -> int:
        return len(self._segments)

    def append(self, batch: Batch) -> None:
        """Put it last. Raises OSError."""
        tail = self._tail()
        self._spill.bytes += tail.append(batch)

    def push_front(self, batches: list[Batch]) -> Segment:
        """Make batches durable again that were handed over; they stay with the caller, who sends them.

        In the file they come before everything else, for the next process. Raises OSError.
        """
        order = self._segments[0].order - 1 if self._segments else _FIRST_ORDER
        segment = Segment.create(self._spill.folder, self._partition, order)
        try:
            for batch in batches:
                segment.append(batch)
        except OSError:
            segment.remove()
            raise
        self._seal(segment)
        segment.is_read, segment.unacknowledged = True, len(batches)
        self._spill.bytes += segment.size
        self._segments.appendleft(segment)
        return segment

    def read(self) -> tuple[Batch, Segment] | None:
        """The next batch and the segment to acknowledge it to."""
        for segment in self._segments:
            if segment.is_read:
                continue
            damaged = segment.damaged
            batch = segment.read()
            self._spill.damaged += segment.damaged - damaged
            if batch is not None:
                return batch, segment
        self._collect()
        return None

    def acknowledge(self, segment: Segment) -> None:
        """One batch of it has arrived."""
        segment.unacknowledged -= 1
        if segment.unacknowledged == 0:
            self._collect()

    def take(self, segment: Segment) -> None:
        """Put a segment last that another process wrote."""
        order = self._segments[-1].order + 1 if self._segments else _FIRST_ORDER
        path = self._spill.folder / name_of(self._partition, order)
        segment.path.rename(path)
        segment.path, segment.order = path, order
        self._recover(segment)

    def _recover(self, segment: Segment) -> None:
        if self._segments:
            self._seal(self._segments[-1])
        self._segments.append(segment)
        self._spill.bytes += segment.size

    def _tail(self) -> Segment:
        tail = self._segments[-1] if self._segments else None
        if tail is not None and tail.is_open and tail.size < SEGMENT_BYTES:
            return tail
        if tail is not None:
            self._seal(tail)
        order = tail.order + 1 if tail is not None else _FIRST_ORDER
        created = Segment.create(self._spill.folder, self._partition, order)
        self._spill.bytes += created.size
        self._segments.append(created)
        return created

    def _seal(self, segment: Segment) -> None:
        if (fd := segment.seal()) >= 0:
            self._spill.unsynced.append(fd)

    def _is_exhausted(self, segment: Segment) -> bool:
        return segment.is_read or (segment.is_open and segment.position >= segment.size)

    def _collect(self) -> None:
        """Delete what was read and acknowledged; the open one too, once everything in it has arrived."""
        for segment in list(self._segments):
            if segment.is_open and segment.position >= segment.size and segment.unacknowledged == 0:
                segment.is_read = True
            if segment.is_done:
                self._segments.remove(segment)
                self._spill.bytes -= segment.size
                segment.remove()

    def open_segment(self) -> Segment | None:
        """The one that is being written."""
        return self._segments[-1] if self._segments and self._segments[-1].is_open else None

    def close(self) -> None:
        for segment in self._segments:
            self._seal(segment)
            segment.close()


class Spill:
    """The folder of one worker."""

    def __init__(self, folder: Path, partitions: int, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._full_at = _NEVER_FULL
        # On disk now.
        self.bytes = 0
        # Batches that could not be read back.
        self.damaged = 0
        # Descriptors of sealed files that were not fsynced yet.
        self.unsynced: list[int] = []
        self.lanes = [SpillLane(self, partition) for partition in range(partitions)]
        self._lock_fd = -1

    async def open(self, patience_s: float = 10.0) -> None:
        """Lock the folder and find what earlier processes left. `Refused` where a living one holds it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while (lock := try_lock(self.folder)) < 0:
            if loop.time() >= deadline:
                raise Refused(
                    f"the spill folder {self.folder} is used by another gateway process; stop it, or give this one "
                    "a PHANTOM_GATEWAY_WORKER of its own",
                    code="spill_folder_taken",
                    folder=str(self.folder),
                )
            await asyncio.sleep(0.1)
        self._lock_fd = lock
        for segment in self._found(self.folder):
            self.lanes[segment.partition]._recover(segment)

    def has_room(self, size: int) -> bool:
        """Whether a new batch of so many bytes is within the bound.

        Once one did not fit none does until something was sent, so that what is lost is one stretch.
        """
        if self.bytes + size + _OVERHEAD_BYTES > self.limit_bytes:
            self._full_at = min(self._full_at, self.bytes)
        elif self.bytes < self._full_at:
            self._full_at = _NEVER_FULL
        return self._full_at == _NEVER_FULL

    def take_over(self, other: Path) -> int:
        """Move the segments of a folder that no process holds into this one; how many. Raises OSError."""
        if other == self.folder or not any(other.glob(f"*{SUFFIX}")):
            return 0
        lock = try_lock(other)
        if lock < 0:
            return 0
        try:
            segments = self._found(other)
            for segment in segments:
                self.lanes[segment.partition].take(segment)
        finally:
            os.close(lock)
        if segments:
            log.warning(
                "took over the spill of a gateway that is gone",
                action="spill_taken_over",
                folder=str(other),
                files=len(segments),
            )
        return len(segments)

    async def sync(self) -> None:
        """fsync what is being written, without holding up the event loop."""
        segments = [segment for lane in self.lanes if (segment := lane.open_segment()) is not None]
        fds = self.unsynced + [segment.duplicate_fd() for segment in segments]
        self.unsynced = []
        if fds:
            await asyncio.to_thread(_fsync_and_close, fds)

    def close(self) -> None:
        """Seal, fsync and release everything."""
        for lane in self.lanes:
            lane.close()
        _fsync_and_close(self.unsynced)
        self.unsynced = []
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _found(self, folder: Path) -> list[Segment]:
        segments = []
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            name = parse_name(path.name)
            if name is None or name[0] >= len(self.lanes):
                set_aside(path, "its name is not a segment's")
                continue
            segment = Segment.found(path, *name)
            if segment is not None:
                segments.append(segment)
        return segments


def try_lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed; -1 where another process holds it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return -1
    return fd


def _fsync_and_close(fds: list[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.fsync(fd)
        os.close(fd)
