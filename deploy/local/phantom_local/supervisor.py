"""`up`: start everything at once, say how it goes, keep it running, stop it in the right order."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from phantom_local.children import take_lock
from phantom_local.keeper import Child, Keeper, locked_children
from phantom_local.layout import HOST, Layout, read_json, write_json
from phantom_local.shutdown import stop_child, stop_everything
from phantom_local.stack import (
    StackSettings,
    control_child,
    gateway_child,
    kafka_child,
    postgres_child,
    postgres_server,
)

OK, FAILED, TIMED_OUT, INTERRUPTED = 0, 1, 6, 130
GIVE_UP_AFTER = 5  # ends in a row before it was ever ready
_STILL_WAITING_EVERY_S = 10.0


@dataclass(frozen=True)
class Services:
    """How our own processes are started; tests bring others."""

    control: Callable[[Layout, StackSettings, str, str], Child] = control_child
    gateway: Callable[[Layout, StackSettings, int, str], Child] = gateway_child


class AlreadyRunning(RuntimeError):
    """Another `up` keeps this data directory."""


class Progress:
    """Lines with the time since the beginning, on stderr."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._one_at_a_time = threading.Lock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    def __call__(self, line: str) -> None:
        with self._one_at_a_time:
            sys.stderr.write(f"[{self.elapsed_s:5.1f} s] {line}\n")
            sys.stderr.flush()


class Supervisor:
    """The children of one data directory. One a directory at a time, by `run/up.lock`."""

    def __init__(
        self,
        layout: Layout,
        settings: StackSettings,
        say: Callable[[str], None],
        services: Services | None = None,
    ) -> None:
        self._services = services or Services()
        self._layout = layout
        self._settings = settings
        self._say = say
        self._keepers: list[Keeper] = []
        self._asked = threading.Event()
        self._signal = 0

    def run(self, timeout_s: float) -> int:
        """Start, keep running until SIGTERM or SIGINT, stop everything. Returns the exit code.

        Raises AlreadyRunning. Where the stack is not ready in `timeout_s` it is stopped again.
        """
        self._layout.make()
        lock = take_lock(self._layout.run / "up.lock")
        if lock is None:
            stack = read_json(self._layout.stack_file) or {}
            raise AlreadyRunning(
                f"another `up` (pid {stack.get('pid', 'unknown')}) keeps {self._layout.data_dir} running: "
                "see `phantom-ml-studio status`, or stop it with `phantom-ml-studio down`"
            )
        try:
            self._listen_to_signals()
            code = self._start(timeout_s)
            if code == OK:
                self._asked.wait()
            return self._stop(code)
        finally:
            os.close(lock)

    def stop(self) -> None:
        """Ask a running `run` to come to its end."""
        self._asked.set()

    def _listen_to_signals(self) -> None:
        def on_signal(number: int, _: FrameType | None) -> None:
            self._signal = number
            self._asked.set()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, on_signal)

    def _start(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        self._write_stack("starting")
        kafka, postgres = self._start_servers()
        if not self._wait_until_placed(deadline):
            return self._explain(timeout_s)
        self._keep(self._services.control(self._layout, self._settings, kafka(), postgres))
        for number in range(self._settings.gateways):
            self._keep(self._services.gateway(self._layout, self._settings, number, kafka()))
        self._stop_surplus()
        if not self._wait_until_ready(deadline):
            return self._explain(timeout_s)
        self._write_stack("ready")
        self._say(f"everything is ready, kept in {self._layout.data_dir}")
        password = self._layout.secrets / "admin-password"
        self._say(f"log in: phantom-ml-studio auth login --username admin (first password: {password})")
        return OK

    def _start_servers(self) -> tuple[Callable[[], str], str]:
        """Kafka and Postgres together; returns where they will be."""
        settings = self._settings
        if settings.postgres_dsn is None:
            self._keep(postgres_child(self._layout))
        if settings.kafka_bootstrap is not None:
            given = settings.kafka_bootstrap
            return (lambda: given), settings.postgres_dsn or postgres_server(self._layout).dsn
        broker = self._keep(kafka_child(self._layout, settings))
        dsn = settings.postgres_dsn or postgres_server(self._layout).dsn
        return (lambda: f"{HOST}:{broker.ports['kafka']}"), dsn

    def _keep(self, child: Child) -> Keeper:
        keeper = Keeper(child, self._layout, self._say, on_placed=self._on_placed)
        self._keepers.append(keeper)
        keeper.start()
        return keeper

    def _on_placed(self) -> None:
        """A child has its ports, perhaps new ones: tell the others."""
        stack = read_json(self._layout.stack_file) or {}
        self._write_stack(str(stack.get("state", "starting")))

    def _stop_surplus(self) -> None:
        """Children of an earlier `up` that this one was not asked for."""
        wanted = {keeper.name for keeper in self._keepers}
        for name in locked_children(self._layout.run):
            if name not in wanted:
                self._say(f"{name} is not wanted any more")
                stop_child(self._layout, name, self._say)

    def _wait_until_placed(self, deadline: float) -> bool:
        return self._wait(deadline, lambda keeper: keeper.placed.is_set())

    def _wait_until_ready(self, deadline: float) -> bool:
        return self._wait(deadline, lambda keeper: keeper.ready.is_set())

    def _wait(self, deadline: float, is_there: Callable[[Keeper], bool]) -> bool:
        said = time.monotonic()
        while time.monotonic() < deadline and not self._asked.is_set():
            missing = [keeper for keeper in self._keepers if not is_there(keeper)]
            if not missing:
                return True
            if any(keeper.failures >= GIVE_UP_AFTER for keeper in missing):
                return False
            if time.monotonic() - said > _STILL_WAITING_EVERY_S:
                said = time.monotonic()
                self._say("waiting for " + "; ".join(f"{k.name}: {k.reason}" for k in missing))
            time.sleep(0.05)
        return False

    def _explain(self, timeout_s: float) -> int:
        if self._asked.is_set():
            return OK
        missing = [keeper for keeper in self._keepers if not keeper.ready.is_set()]
        for keeper in missing:
            self._say(f"{keeper.name} is not ready: {keeper.reason}")
            for line in tail(self._layout, keeper.name, 8):
                self._say(f"    {line}")
        if any(keeper.failures >= GIVE_UP_AFTER for keeper in missing):
            self._say("giving up: it does not stay alive")
            return FAILED
        self._say(f"giving up: not ready after {timeout_s:g} s")
        return TIMED_OUT

    def _stop(self, code: int) -> int:
        self._say("stopping")
        self._write_stack("stopping")
        for keeper in self._keepers:
            keeper.forsake()
        for keeper in self._keepers:
            keeper.leave()
        if not stop_everything(self._layout, self._say):
            self._say("something is still running: see `phantom-ml-studio status`")
            return code or FAILED
        return code or (INTERRUPTED if self._signal == signal.SIGINT else OK)

    def _write_stack(self, state: str) -> None:
        ports = {keeper.name: keeper.ports for keeper in self._keepers}
        control = ports.get("control", {})
        kafka = ports.get("kafka", {})
        gateways = [
            {"name": name, **{what: f"{HOST}:{port}" for what, port in theirs.items()}}
            for name, theirs in ports.items()
            if name.startswith("gateway") and theirs
        ]
        write_json(
            self._layout.stack_file,
            {
                "state": state,
                "pid": os.getpid(),
                "data_dir": str(self._layout.data_dir),
                "control_address": f"{HOST}:{control['grpc']}" if control else None,
                "control_metrics": f"{HOST}:{control['metrics']}" if control else None,
                "gateways": gateways,
                "kafka_bootstrap": self._settings.kafka_bootstrap
                or (f"{HOST}:{kafka['kafka']}" if kafka else None),
                "postgres_dsn": self._settings.postgres_dsn or postgres_server(self._layout).dsn,
            },
        )


def tail(layout: Layout, name: str, lines: int) -> list[str]:
    """The last lines of a child's log."""
    path = layout.log(name)
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return file.read().decode(errors="replace").splitlines()[-lines:]
