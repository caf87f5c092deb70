"""The stack's processes: found by their files, killed, held back, frozen; and gateways of a test's own beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from harness.stack import Stack
from harness.waiting import eventually
from phantom_local.children import Record, end, is_locked, live_process, take_lock, wait_gone
from phantom_local.embedded.process import free_port
from phantom_local.layout import Layout, read_json
from phantom_local.shutdown import living_replicas, stop_child
from phantom_local.stack import StackSettings, gateway_child, http_get, readiness
from phantom_local.status import ProcessStatus, stack_status

UP_WITHIN_S = 150
# None is the usual one: whoever looks there must not find a stack that is about to be killed.
_PORTS = (
    "KAFKA_PORT",
    "CONTROL_PORT",
    "METRICS_PORT",
    "GATEWAY_GRPC_PORT",
    "GATEWAY_HTTP_PORT",
    "GATEWAY_METRICS_PORT",
)
# Holds `down` back until the pipe of the test process closes: at the end, or when that process is killed.
_GUARD = 'cat >/dev/null; exec "$1" -m phantom_local down --data-dir "$2"'
DOWN_WITHIN_S = 120
BACK_WITHIN_S = 60.0
_FIRST_OWN = 20  # numbers of gateways that `up` does not know


@dataclass(frozen=True)
class Site:
    """One data directory and what runs from it."""

    data_dir: Path
    # Of `up`: the same each time, so that it adopts what runs, and so that clients find it again.
    environment: Mapping[str, str]

    @property
    def stack(self) -> Stack:
        """Where everything is now."""
        return Stack.of(self.data_dir)

    @property
    def layout(self) -> Layout:
        """Its files."""
        return Layout(self.data_dir)

    def process(self, name: str) -> psutil.Process:
        """One of `up`'s children (control, kafka, postgres, gateway-0), or `up` itself."""
        if name == "up":
            found = live_process(int((read_json(self.layout.stack_file) or {})["pid"]))
        else:
            record = Record.read(self.layout.run / f"{name}.json")
            found = record.process if record else None
        assert found is not None, f"{name} does not run"
        return found

    def pids(self) -> dict[str, int]:
        """Of every child and model server."""
        records = [Record.read(path) for path in self.layout.run.glob("*.json") if path.stem != "stack"]
        children = {record.name: record.pid for record in records if record and record.process}
        return children | {name: process.pid for name, process in living_replicas(self.layout).items()}

    def kill(self, name: str) -> int:
        """kill -9; returns the pid that is gone. A Postgres takes its backends along by itself."""
        process = self.process(name)
        process.kill()
        assert not wait_gone([process], 10), f"{name} survives kill -9"
        return process.pid

    def await_back(self, name: str, gone_pid: int, within_s: float = BACK_WITHIN_S) -> int:
        """Wait until another process has taken its place and serves; its pid."""

        def is_back() -> int:
            found = self._status(name)
            return (found.pid or 0) if found and found.state == "healthy" and found.pid != gone_pid else 0

        return eventually(is_back, f"{name} being back", within_s)

    def await_healthy(self, within_s: float = BACK_WITHIN_S) -> None:
        """Wait until everything that should run does, and serves."""
        eventually(lambda: stack_status(self.layout).is_healthy, "everything being healthy", within_s)

    def _status(self, name: str) -> ProcessStatus | None:
        return next((each for each in stack_status(self.layout).processes if each.name == name), None)

    @contextmanager
    def held_back(self, *names: str) -> Iterator[None]:
        """Kill these, and nobody starts them again before the block ends; then wait until they are back."""
        with self.frozen("up"):
            gone = {name: self.kill(name) for name in names}
            yield
        for name, pid in gone.items():
            self.await_back(name, pid)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Stopped in its tracks (SIGSTOP) for as long as the block lasts."""
        process = self.process(name)
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def up(self) -> None:
        """`up --detach`, again."""
        self._run("up", "--detach", within_s=UP_WITHIN_S)

    def down(self) -> str:
        """`down`; what it says."""
        return self._run("down", within_s=DOWN_WITHIN_S)

    def _run(self, *arguments: str, within_s: float) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "phantom_local", *arguments, "--data-dir", str(self.data_dir)],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@contextmanager
def running_site(keeps_logs: Callable[[], bool]) -> Iterator[Site]:
    """Everything up; at the end everything down, also when this process is killed, and the files gone.

    Where `keeps_logs` says so then, the logs stay.
    """
    # Short: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="phantom-faults-"))
    ports = {f"PHANTOM_{each}": str(free_port()) for each in _PORTS}
    site = Site(folder / "d", {**os.environ, **ports})
    argv = ["/bin/sh", "-c", _GUARD, "guard", sys.executable, str(site.data_dir)]
    with (folder / "down.log").open("wb") as log:
        guard = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    try:
        site.up()
        yield site
    finally:
        guard.communicate(timeout=2 * DOWN_WITHIN_S)
        said = (folder / "down.log").read_text(errors="replace")
        if keeps_logs():
            shutil.rmtree(site.data_dir / "kafka", ignore_errors=True)
            shutil.rmtree(site.data_dir / "postgres", ignore_errors=True)
            sys.stderr.write(f"\nthe logs of the stack are in {site.data_dir}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    assert guard.returncode == 0, f"`down` left something behind: {said}"
    left = [process for process in psutil.process_iter() if _belongs_to(process, site.data_dir)]
    assert not left, f"left behind: {left}"


def _belongs_to(process: psutil.Process, data_dir: Path) -> bool:
    try:
        return str(data_dir) in " ".join(process.cmdline())
    except psutil.Error:
        return False


class OwnGateway:
    """A gateway of a test's own. It has a record and a lock like `up`'s children, so `down` would stop it, too."""

    def __init__(self, site: Site, number: int, kafka: str) -> None:
        self._site = site
        self.name = f"gateway-{_FIRST_OWN + number}"
        self._child = gateway_child(site.layout, StackSettings(), _FIRST_OWN + number, kafka)
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def grpc(self) -> str:
        """host:port for calls."""
        return f"127.0.0.1:{self._ports['grpc']}"

    @property
    def metrics_port(self) -> int:
        """/metrics and /ready."""
        return self._ports["metrics"]

    def start(self) -> OwnGateway:
        """A new process; returns when it is ready."""
        run = self._site.layout.run
        lock = take_lock(run / f"{self.name}.lock", patience_s=10)
        assert lock is not None, f"{self.name} runs already"
        self._ports = {what: free_port() for what in self._child.usual_ports}
        launch = self._child.launch(self._ports)
        try:
            self._process = replace(launch, inherit=(lock,)).spawn()
        finally:
            os.close(lock)
        pid = self._process.pid
        record = Record(self.name, pid, psutil.Process(pid).create_time(), self._ports, str(launch.log))
        record.write(run / f"{self.name}.json")
        eventually(lambda: not readiness(self.metrics_port), f"{self.name} being ready", BACK_WITHIN_S)
        return self

    def stop(self) -> None:
        """SIGTERM; fails where that does not end it."""
        assert self._process is not None
        end([psutil.Process(self._process.pid)], signal.SIGTERM, 40)
        code = self._process.wait(5)
        assert code == 0, f"{self.name} ended with {code}"
        stop_child(self._site.layout, self.name, lambda line: None)

    def remove(self) -> None:
        """However it is: nothing of it is left."""
        stop_child(self._site.layout, self.name, lambda line: None)
        if self._process is not None:
            self._process.wait(10)
        assert not is_locked(self._site.layout.run / f"{self.name}.lock")


def metric(port: int, name: str) -> float:
    """A metric without labels, of the process whose observation port this is."""
    status, text = http_get(port, "/metrics", timeout_s=10)
    assert status == 200, text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                return float(sample.value)
    raise AssertionError(f"no metric {name}")
