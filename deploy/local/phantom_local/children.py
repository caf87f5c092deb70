"""Processes that outlive whoever started them: found again by their files.

A child named `x` inherits an exclusive lock on `run/x.lock` and is described by `run/x.json`. The lock makes sure
that there is never a second one; the record (pid and start time) says which process it is.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from phantom_local.layout import read_json, write_json

_SAME_START_S = 1.5  # a start time is read from clock ticks, and from the wall clock by some writers


@dataclass(frozen=True)
class Record:
    """One running (or dead) process, as its file describes it."""

    name: str
    pid: int
    started_at: float  # unix seconds
    ports: dict[str, int] = field(default_factory=dict)
    log: str = ""
    fingerprint: str = ""  # of what it was started with
    stop_signal: int = signal.SIGTERM

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record in a file; None where there is none, or a damaged one."""
        raw = read_json(path)
        try:
            return cls(**raw) if raw else None
        except TypeError:
            return None

    def write(self, path: Path) -> None:
        """Write it by rename."""
        write_json(path, asdict(self))

    @property
    def process(self) -> psutil.Process | None:
        """The very process that was recorded, if it lives: a pid that is used again is somebody else."""
        return live_process(self.pid, self.started_at)


def live_process(pid: int, started_at: float | None = None) -> psutil.Process | None:
    """The process with this pid, unless it has ended, is a zombie, or started at another time."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if started_at is not None and abs(process.create_time() - started_at) > _SAME_START_S:
            return None
    except (psutil.Error, ValueError):
        return None
    return process


def take_lock(path: Path, patience_s: float = 0.5) -> int | None:
    """Take the exclusive lock and return its file descriptor; None where somebody else holds it.

    The patience is for those who only look: `is_locked` holds the lock for an instant.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock now."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def wait_unlocked(path: Path, timeout_s: float) -> bool:
    """Wait until nobody holds the lock; False where somebody still does."""
    deadline = time.monotonic() + timeout_s
    while is_locked(path):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def holders(lock: Path) -> list[psutil.Process]:
    """Processes that have the lock file open; for locks whose record is missing."""
    return list(_holders(str(lock.resolve())))


def _holders(path: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and any(file.path == path for file in process.open_files()):
                yield process


def find(record_path: Path, lock: Path) -> list[psutil.Process]:
    """The living processes behind a record, or behind its lock where the record does not say."""
    record = Record.read(record_path)
    process = record.process if record else None
    if process is not None:
        return [process]
    return holders(lock) if is_locked(lock) else []


def end(processes: Iterable[psutil.Process], stop_signal: int, timeout_s: float) -> bool:
    """Ask them to stop, kill those that have not in time. True when all stopped by themselves."""
    asked = list(processes)
    for process in asked:
        with suppress(psutil.Error):
            process.send_signal(stop_signal)
    still = wait_gone(asked, timeout_s)
    for process in still:
        with suppress(psutil.Error):
            process.kill()
    wait_gone(still, 5.0)
    return not still


def wait_gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until they have ended (a zombie has); returns those that have not in time."""
    deadline = time.monotonic() + timeout_s
    left = processes
    while True:
        left = [process for process in left if _is_alive(process)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.02)


def _is_alive(process: psutil.Process) -> bool:
    """A zombie has ended, and so has one whose pid somebody else has now."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def pss_bytes(process: psutil.Process) -> int:
    """Proportional set size of a process and its descendants; resident size where the system has no PSS."""
    total = 0
    with suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                memory: Any = one.memory_full_info()
                total += int(getattr(memory, "pss", memory.rss))
    return total
