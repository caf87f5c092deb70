"""Processes of a benchmark: started, ended for certain, and what they cost, read from /proc."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .system import CannotMeasure

TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One child with a log file. It is told to stop when this process dies, whatever happens."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        *,
        talks: bool = False,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        """Of the process itself; `tree` knows its children."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._popen.poll() is None

    def ask(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()

    def hear(self) -> str:
        """The next line of its stdout; CannotMeasure where it has ended."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            self._popen.wait()
            raise CannotMeasure(f"{self._name()} ended: {self.tail()}")
        return line.decode().strip()

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, is_ready: object, within_s: float = 60.0) -> None:
        """Poll `is_ready()` until it is true; CannotMeasure where the process dies or time is up."""
        assert callable(is_ready)
        until = time.monotonic() + within_s
        while not is_ready():
            if not self.is_alive:
                raise CannotMeasure(f"{self._name()} ended: {self.tail()}")
            if time.monotonic() > until:
                raise CannotMeasure(f"{self._name()} is not ready after {within_s:g} s: {self.tail()}")
            time.sleep(0.05)

    def stop(self, within_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL for what is left of its tree."""
        everyone = tree([self.pid])
        if self.is_alive:
            self._popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(within_s)
        for pid in everyone:
            if pid != self.pid and is_running(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.is_alive:
            self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _name(self) -> str:
        return " ".join(map(str, self._popen.args[:4]))  # type: ignore[index]


def stat_of(text: str) -> tuple[int, float]:
    """(parent's pid, CPU seconds in user and system) of a line of /proc/<pid>/stat."""
    fields = text.rsplit(")", 1)[1].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS


def _stat(pid: int) -> tuple[int, float] | None:
    try:
        return stat_of(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, IndexError):
        return None


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    return _stat(pid) is not None


def tree(pids: Iterable[int]) -> list[int]:
    """These processes and all their descendants, as they are now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (found := _stat(int(entry.name))) is not None:
            children.setdefault(found[0], []).append(int(entry.name))
    every, ahead = [], [pid for pid in pids if is_running(pid)]
    while ahead:
        pid = ahead.pop()
        if pid not in every:
            every.append(pid)
            ahead += children.get(pid, [])
    return every


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used."""
    return sum(found[1] for pid in pids if (found := _stat(pid)) is not None)


def memory_bytes(pids: Iterable[int], what: str = "Pss") -> int:
    """Sum of `Pss` or `Rss` of these processes."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{what}:"):
                    total += int(line.split()[1]) * 1024
    return total


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
