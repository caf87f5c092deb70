"""One child kept alive: adopted or spawned, waited for, watched, started again with a growing pause."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from phantom_local.children import Record, end, find, is_locked, live_process, take_lock
from phantom_local.embedded.process import Launch, ServerError, free_port, is_port_free
from phantom_local.layout import Layout

Say = Callable[[str], None]

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STEADY_AFTER_S = 30.0  # alive for this long: the next pause is the first one again
_LOOK_EVERY_S = 0.05
_OF_CLIENTS = {"PHANTOM_ADDRESS", "PHANTOM_GATEWAY", "PHANTOM_CONFIG_DIR", "PHANTOM_CACHE_DIR"}


@dataclass(frozen=True)
class Child:
    """What the supervisor must know of a process.

    `launch(ports)` makes it startable on these ports; it may block, and raises ServerError when it cannot.
    `why_not_ready(pid, ports)` returns "" when it serves.
    `adopts_any` leaves a living one alone however it was started: a server, whose state is in its data directory.
    """

    name: str
    launch: Callable[[dict[str, int]], Launch]
    why_not_ready: Callable[[int, dict[str, int]], str]
    usual_ports: dict[str, int] = field(default_factory=dict)
    adopts_any: bool = False


def choose_ports(usual: dict[str, int], last: dict[str, int]) -> dict[str, int]:
    """For each name the port of the last life, else the usual one, else any: the first that nobody has now."""
    chosen: dict[str, int] = {}
    for what, port in usual.items():
        wanted = [last[what], port] if what in last else [port]
        chosen[what] = next((p for p in wanted if p and is_port_free(p)), 0) or free_port()
    return chosen


def fingerprint(launch: Launch) -> str:
    """Of the command and of our own settings: adopted is only what would be started the same way."""
    ours = sorted(
        (key, value)
        for key, value in launch.env.items()
        if key.startswith("PHANTOM_") and key not in _OF_CLIENTS
    )
    return hashlib.sha256(repr((list(launch.argv), ours)).encode()).hexdigest()


class Keeper:
    """Keeps one child alive on a thread of its own until told to stop; stopping the child is not its job."""

    def __init__(
        self, child: Child, layout: Layout, say: Say, on_placed: Callable[[], None] = lambda: None
    ) -> None:
        self.child = child
        self._on_placed = on_placed
        self.ready = threading.Event()
        self.placed = threading.Event()  # its ports are known
        self.failures = 0  # ends in a row without having been ready
        self.reason = "not started"
        self.record: Record | None = None
        self._say = say
        self._lock = layout.run / f"{child.name}.lock"
        self._file = layout.run / f"{child.name}.json"
        self._log = layout.log(child.name)
        self._stopping = threading.Event()
        self._own: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=child.name, daemon=True)

    @property
    def name(self) -> str:
        """The child's name."""
        return self.child.name

    @property
    def ports(self) -> dict[str, int]:
        """Ports of the running or last life."""
        return self.record.ports if self.record else {}

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def forsake(self) -> None:
        """Stop watching and restarting; the child itself goes on."""
        self._stopping.set()

    def leave(self) -> None:
        """Forsake it and return when nothing more will be spawned."""
        self.forsake()
        self._thread.join(timeout=90)

    def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            born = time.monotonic()
            try:
                self._live_once()
            except (ServerError, OSError, subprocess.SubprocessError) as error:
                self.reason = str(error)
            if self._stopping.is_set():
                return
            was_ready = self.ready.is_set()
            self.ready.clear()
            self.failures = 0 if was_ready else self.failures + 1
            if was_ready and time.monotonic() - born > STEADY_AFTER_S:
                pause = FIRST_PAUSE_S
            self._say(f"{self.name} {self.reason}; starting it again in {pause:g} s")
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _live_once(self) -> None:
        """From being found or spawned to its end."""
        adopted = self._adopt()
        if adopted is None:
            self.record = self._spawn()
        else:
            self.record = adopted
        self.placed.set()
        self._on_placed()
        begun = time.monotonic()
        while not self._stopping.is_set() and self._is_alive():
            if not self.ready.is_set():
                self._look(adopted is not None, begun)
            self._stopping.wait(_LOOK_EVERY_S)

    def _look(self, was_adopted: bool, begun: float) -> None:
        assert self.record is not None
        self.reason = self.child.why_not_ready(self.record.pid, self.record.ports)
        if self.reason:
            return
        self.ready.set()
        how = "adopted, it ran on" if was_adopted else f"ready after {time.monotonic() - begun:.1f} s"
        self._say(f"{self.name} {how} (pid {self.record.pid}{_words(self.record.ports)})")

    def _is_alive(self) -> bool:
        assert self.record is not None
        if self._own is not None:
            code = self._own.poll()
            if code is None:
                return True
            self.reason = f"(pid {self._own.pid}) ended with {_ending(code)}, see {self._log}"
            self._own = None
            return False
        if self.record.process is not None:
            return True
        self.reason = f"(pid {self.record.pid}) is gone"
        return False

    def _adopt(self) -> Record | None:
        """The living child of an earlier supervisor; one that does not fit is stopped first."""
        record = Record.read(self._file)
        self.record = record or self.record
        living = find(self._file, self._lock)
        if not living:
            return None
        if record is not None and record.process is not None:
            if self.child.adopts_any:
                return record
            if fingerprint(self.child.launch(record.ports)) == record.fingerprint:
                return record
            self._say(f"{self.name} runs with other settings: stopping it (pid {record.pid})")
        end(living, record.stop_signal if record else 15, timeout_s=40)
        return None

    def _spawn(self) -> Record:
        lock = self._wait_for_lock()
        try:
            ports = choose_ports(self.child.usual_ports, self.ports)
            self._say_moved(ports)
            launch = self.child.launch(ports)
            self._own = replace(launch, inherit=(lock,)).spawn()
        finally:
            os.close(lock)
        process = live_process(self._own.pid)
        record = Record(
            name=self.name,
            pid=self._own.pid,
            started_at=process.create_time() if process else time.time(),
            ports=ports,
            log=str(launch.log),
            fingerprint=fingerprint(launch),
            stop_signal=int(launch.stop_signal),
        )
        record.write(self._file)
        return record

    def _wait_for_lock(self) -> int:
        """The lock is free a moment after the last descendant of the old child has gone."""
        for _ in range(10):
            lock = take_lock(self._lock, patience_s=1.0)
            if lock is not None:
                return lock
            if self._stopping.is_set():
                break
        raise ServerError(f"cannot start while somebody holds {self._lock}")

    def _say_moved(self, ports: dict[str, int]) -> None:
        for what, port in ports.items():
            expected = self.ports.get(what) or self.child.usual_ports[what]
            if expected and expected != port:
                self._say(f"{self.name}: port {expected} ({what}) is taken, using {port}")


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _words(ports: dict[str, int]) -> str:
    return "".join(f", {what} {port}" for what, port in ports.items())


def locked_children(run: Path) -> list[str]:
    """Names of the children that live, by their locks."""
    return sorted(lock.stem for lock in run.glob("*.lock") if lock.stem != "up" and is_locked(lock))
