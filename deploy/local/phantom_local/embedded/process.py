"""One server process: started into a session of its own, waited for, stopped gracefully, else killed."""

from __future__ import annotations

import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"


class ServerError(RuntimeError):
    """A server did not become ready."""


@dataclass(frozen=True)
class Launch:
    """How to start a process: everything but the moment and the parent."""

    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None  # an account to drop to; only root may name one
    inherit: tuple[int, ...] = ()  # file descriptors that the process keeps

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it detached from our terminal and our pipes, so that it outlives us undisturbed."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - argv comes from our own builders
                list(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.env),
                start_new_session=True,
                pass_fds=self.inherit,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid if self.user else None,
                extra_groups=[] if self.user else None,
            )


class EmbeddedServer:
    """A server over one data directory. Not thread-safe; one object, one owner."""

    name = "server"
    start_timeout_s = 60.0
    stop_timeout_s = 20.0

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self, *, log: Path | None = None) -> Launch:
        """Make the data directory startable (format, configuration, stale locks); safe to repeat."""
        raise NotImplementedError

    def is_ready(self, pid: int) -> bool:
        """Whether the process `pid` serves this data directory and answers."""
        raise NotImplementedError

    def may_retry(self, output: str) -> bool:
        """Whether an early exit that wrote `output` is expected to go away by itself."""
        return False

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ServerError(f"{self.name} has not been started")
        return self._process.pid

    def start(self) -> None:
        """Start and return when it answers; raises ServerError with the end of its log."""
        deadline = time.monotonic() + self.start_timeout_s
        self._reap()
        while True:
            launch = self.prepare()
            offset = launch.log.stat().st_size if launch.log.exists() else 0
            self._process = launch.spawn()
            if self._is_ready_before(deadline):
                return
            output = _text_after(launch.log, offset)
            if time.monotonic() >= deadline or not self.may_retry(output):
                self.kill()
                tail = "\n".join(output.splitlines()[-20:])
                raise ServerError(f"{self.name} did not start; {launch.log} ends with:\n{tail}")
            time.sleep(0.2)

    def _reap(self) -> None:
        """Forget a process of ours that has died; one that lives on must be stopped first."""
        if self._process is None:
            return
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self.name} runs already, pid {self.pid}") from None
        self._process = None

    def _is_ready_before(self, deadline: float) -> bool:
        assert self._process is not None
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.is_ready(self._process.pid):
                return True
            time.sleep(0.02)
        return False

    def stop(self) -> None:
        """Ask it to stop, kill it when it has not within `stop_timeout_s`; a second call does nothing."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal())
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self.stop_timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process = None

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def is_port_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a listener could be opened on `port` now (connections in TIME_WAIT do not count)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _text_after(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")
