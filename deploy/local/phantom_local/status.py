"""What runs where, whether it is healthy, and why not."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from phantom_local.children import Record, is_locked, live_process, pss_bytes
from phantom_local.embedded.kafka import broker_count
from phantom_local.layout import HOST, Layout, read_json
from phantom_local.shutdown import living_replicas
from phantom_local.stack import ask, postgres_server

_MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class ProcessStatus:
    """One process of the stack."""

    name: str
    state: str  # healthy, unhealthy, dead, unsupervised
    why: str = ""
    pid: int | None = None
    ports: dict[str, int] = field(default_factory=dict)
    memory_mb: float = 0.0  # PSS, its own children included
    up_s: float = 0.0
    log: str = ""
    attention: list[str] = field(default_factory=list)  # what an operator should look at


@dataclass(frozen=True)
class StackStatus:
    """Everything that runs, or should run, from one data directory."""

    data_dir: str
    state: str  # what `up` says: starting, ready, stopping; or down, or left alone
    processes: list[ProcessStatus]

    @property
    def attention(self) -> list[str]:
        """What an operator should look at, although it serves."""
        return [f"{process.name}: {line}" for process in self.processes for line in process.attention]

    @property
    def memory_mb(self) -> float:
        """Sum of the processes' PSS."""
        return round(sum(process.memory_mb for process in self.processes), 1)

    @property
    def is_healthy(self) -> bool:
        """Whether everything that should run does, and serves."""
        return self.state == "ready" and all(process.state == "healthy" for process in self.processes)


def stack_status(layout: Layout) -> StackStatus:
    """Look at files and processes, and ask each process; reads nothing but its own data directory."""
    records = sorted(layout.run.glob("*.json"))
    children = [record for path in records if (record := _record(path)) is not None]
    processes = [_supervisor(layout), *(_child(layout, record) for record in children), *_replicas(layout)]
    shown = [process for process in processes if process is not None]
    return StackStatus(str(layout.data_dir), _state(layout, shown), shown)


def _record(path: Path) -> Record | None:
    return None if path.name == "stack.json" else Record.read(path)


def _state(layout: Layout, processes: list[ProcessStatus]) -> str:
    if is_locked(layout.run / "up.lock"):
        return str((read_json(layout.stack_file) or {}).get("state", "starting"))
    return "left alone: nobody restarts what ends; `up` takes over" if processes else "down"


def _supervisor(layout: Layout) -> ProcessStatus | None:
    pid = (read_json(layout.stack_file) or {}).get("pid")
    if not is_locked(layout.run / "up.lock") or not isinstance(pid, int):
        return None
    process = live_process(pid)
    if process is None:
        return None
    return ProcessStatus(
        "up", "healthy", "", pid, {}, *_figures(process, own_only=True), str(layout.log("up"))
    )


def _child(layout: Layout, record: Record) -> ProcessStatus:
    process = record.process
    if process is None:
        return ProcessStatus(record.name, "dead", "it ended", record.pid, record.ports, log=record.log)
    why, attention = _ask(layout, record)
    state = "unhealthy" if why else "healthy"
    figures = _figures(process)
    return ProcessStatus(record.name, state, why, record.pid, record.ports, *figures, record.log, attention)


def _ask(layout: Layout, record: Record) -> tuple[str, list[str]]:
    if record.name == "postgres":
        return "" if postgres_server(layout).is_ready(record.pid) else "does not accept connections", []
    if record.name == "kafka":
        answers = broker_count(HOST, record.ports["kafka"], timeout_s=2.0) > 0
        return "" if answers else f"no live broker answers on port {record.ports['kafka']}", []
    return ask(record.ports["metrics"])


def _replicas(layout: Layout) -> list[ProcessStatus]:
    return [_replica(layout, name, process) for name, process in living_replicas(layout).items()]


def _replica(layout: Layout, name: str, process: psutil.Process) -> ProcessStatus:
    file: dict[str, Any] = read_json(layout.replicas / f"{name}.json") or {}
    ports = {
        what: int(str(file[key]).rsplit(":", 1)[1])
        for what, key in (("grpc", "address"), ("metrics", "http_address"))
        if ":" in str(file.get(key, ""))
    }
    attention: list[str] = []
    if file.get("pid") != process.pid or "metrics" not in ports:
        why = "it has not said yet that it serves"
    else:
        why, attention = ask(ports["metrics"])
    state = "unhealthy" if why else "healthy"
    log = str(layout.replicas / f"{name}.log")
    figures = _figures(process)
    return ProcessStatus(f"replica {name}", state, why, process.pid, ports, *figures, log, attention)


def _figures(process: psutil.Process, *, own_only: bool = False) -> tuple[float, float]:
    """Memory in MB and age in seconds. `up` must not count its children twice."""
    memory, age = 0, 0.0
    with suppress(psutil.Error):
        memory = int(process.memory_full_info().pss) if own_only else pss_bytes(process)
        age = time.time() - process.create_time()
    return round(memory / _MEGABYTE, 1), round(age, 1)
