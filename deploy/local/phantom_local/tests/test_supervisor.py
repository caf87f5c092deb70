"""`up` and `down` over a real Kafka and Postgres, with stand-ins for our own processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from phantom_local.__main__ import app
from phantom_local.children import Record, is_locked, live_process
from phantom_local.layout import Layout, read_json
from phantom_local.logs import last_lines
from phantom_local.shutdown import living_replicas
from phantom_local.status import stack_status
from phantom_ml_studio.cli.output import FAILED, TIMED_OUT, USAGE

from .conftest import eventually

pytestmark = [pytest.mark.integration, pytest.mark.faults]
RUN_UP = Path(__file__).with_name("run_up.py")
RUNNER = CliRunner()


@pytest.fixture
def up(layout: Layout):
    """Start `up` with fakes as a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*args: str) -> subprocess.Popen[bytes]:
        with layout.log("up").open("ab") as log:
            argv = [sys.executable, str(RUN_UP), str(layout.data_dir), *args]
            started.append(subprocess.Popen(argv, stderr=log, stdout=log, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def _state(layout: Layout) -> object:
    return (read_json(layout.stack_file) or {}).get("state")


def _pid(layout: Layout, name: str) -> int:
    record = Record.read(layout.run / f"{name}.json")
    return record.pid if record and record.process else 0


NAMES = ("kafka", "postgres", "control", "gateway-0")


def test_up_starts_everything_outlives_kill_9_and_down_stops_it(layout: Layout, up) -> None:
    first = up()
    eventually(lambda: _state(layout) == "ready", 60)
    pids = {name: _pid(layout, name) for name in NAMES}
    assert all(pids.values())
    stack = read_json(layout.stack_file)
    assert stack["gateways"][0]["grpc"].startswith("127.0.0.1:")
    assert stack["control_address"]
    assert stack["postgres_dsn"].startswith("postgresql://phantom@/phantom?host=")

    # a second one is refused, naming the first
    assert up().wait(30) == FAILED
    assert f"pid {first.pid}" in layout.log("up").read_text()

    # Kafka dies: it comes back on its port
    os.kill(pids["kafka"], signal.SIGKILL)
    eventually(lambda: _pid(layout, "kafka") not in (0, pids["kafka"]), 30)
    eventually(lambda: stack_status(layout).is_healthy, 30)
    assert read_json(layout.stack_file)["kafka_bootstrap"] == stack["kafka_bootstrap"]

    # the supervisor dies: the children run on, and the next one adopts them
    pids = {name: _pid(layout, name) for name in NAMES}
    first.kill()
    first.wait()
    assert stack_status(layout).state.startswith("left alone")
    second = up("--gateways", "2")
    eventually(lambda: (read_json(layout.stack_file) or {}).get("pid") == second.pid, 30)
    eventually(lambda: _state(layout) == "ready", 60)
    assert {name: _pid(layout, name) for name in NAMES} == pids
    assert _pid(layout, "gateway-1")

    # fewer gateways: the surplus one goes
    second.kill()
    second.wait()
    third = up()
    eventually(lambda: (read_json(layout.stack_file) or {}).get("pid") == third.pid, 30)
    eventually(lambda: _state(layout) == "ready", 60)
    assert not _pid(layout, "gateway-1")

    _look_around(layout)
    result = RUNNER.invoke(app, ["down", "--data-dir", str(layout.data_dir)])
    assert result.exit_code == 0, result.output
    assert third.wait(10) == 0, layout.log("up").read_text()
    assert all(live_process(pid) is None for pid in pids.values())
    assert stack_status(layout).state == "down"


def _look_around(layout: Layout) -> None:
    """`status` and `logs` while it runs."""
    where = ["--data-dir", str(layout.data_dir)]
    result = RUNNER.invoke(app, ["status", "--output", "json", *where])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    by_name = {process["name"]: process for process in shown["processes"]}
    assert set(by_name) == {"up", *NAMES}
    assert all(process["state"] == "healthy" for process in by_name.values())
    assert by_name["kafka"]["memory_mb"] > 50
    assert shown["attention"] == [
        f"{name}: 3 prediction records were dropped" for name in ("control", "gateway-0")
    ]
    assert "gateway-0" in RUNNER.invoke(app, ["status", *where]).output
    assert "Kafka Server started" in RUNNER.invoke(app, ["logs", "kafka", *where]).output
    assert "kafka | " in RUNNER.invoke(app, ["logs", "--tail", "3", *where]).output
    wrong = RUNNER.invoke(app, ["logs", "kafak", *where])
    assert wrong.exit_code == USAGE
    assert "gateway-0" in wrong.output


def test_down_needs_no_supervisor_and_stops_model_servers_too(layout: Layout, up) -> None:
    process = up()
    eventually(lambda: _state(layout) == "ready", 60)
    replica = _fake_replica(layout.replicas / "r1.lock")
    measured = _fake_replica(layout.scratch / "s1" / "server.lock")
    assert set(living_replicas(layout)) == {"r1"}
    names = {status.name for status in stack_status(layout).processes}
    assert "replica r1" in names
    pids = {name: _pid(layout, name) for name in NAMES}
    process.kill()
    os.kill(pids["control"], signal.SIGKILL)
    result = RUNNER.invoke(app, ["down", "--data-dir", str(layout.data_dir)])
    assert result.exit_code == 0, result.output
    assert all(live_process(pid) is None for pid in pids.values())
    assert replica.wait(10) == -signal.SIGTERM
    assert measured.wait(10) == -signal.SIGKILL
    assert list(layout.scratch.iterdir()) == []
    assert not is_locked(layout.replicas / "r1.lock")
    assert not list(layout.run.glob("*.json"))


def test_up_after_kill_9_of_everything_finds_its_data_and_its_ports(layout: Layout, up) -> None:
    process = up()
    eventually(lambda: _state(layout) == "ready", 60)
    before, pids = read_json(layout.stack_file), [_pid(layout, name) for name in NAMES]
    for pid in (process.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    again = up()
    eventually(lambda: (read_json(layout.stack_file) or {}).get("pid") == again.pid, 60)
    eventually(lambda: _state(layout) == "ready", 60)
    after = read_json(layout.stack_file)
    assert {**after, "pid": 0} == {**before, "pid": 0}
    again.send_signal(signal.SIGTERM)
    assert again.wait(60) == 0


def _fake_replica(lock: Path) -> subprocess.Popen[bytes]:
    """Holds the lock as a model server does: it takes it itself and writes its pid into it."""
    script = (
        "import fcntl, os, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "f.write(f'{os.getpid()}\\n'); f.flush(); time.sleep(120)"
    )
    lock.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", script, str(lock)])
    eventually(lambda: lock.exists() and lock.read_text().strip() == str(process.pid))
    return process


def test_what_does_not_become_ready_in_time_is_explained_and_stopped_again(layout: Layout, up) -> None:
    process = up("--timeout", "6", "--unready", "no keys yet")
    assert process.wait(60) == TIMED_OUT
    said = layout.log("up").read_text()
    assert "control is not ready: broken: no keys yet" in said
    assert stack_status(layout).state == "down"
    assert not [p for p in psutil.process_iter() if str(layout.data_dir) in " ".join(_command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_signal_while_starting_stops_what_has_started(layout: Layout, up) -> None:
    process = up("--unready", "never")
    eventually(lambda: _pid(layout, "control"), 30)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert stack_status(layout).state == "down"


def test_status_and_down_of_an_empty_directory_say_so(tmp_path: Path) -> None:
    where = ["--data-dir", str(tmp_path / "none")]
    assert RUNNER.invoke(app, ["status", *where]).exit_code == FAILED
    result = RUNNER.invoke(app, ["down", *where])
    assert result.exit_code == 0
    assert "nothing has been started" in result.output
    assert not (tmp_path / "none").exists()


def test_last_lines_reads_long_lines_and_short_files(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("".join(f"{n} {'x' * 3000}\n" for n in range(50)))
    assert [line.split()[0] for line in last_lines(file, 3)] == ["47", "48", "49"]
    file.write_text("only\n")
    assert last_lines(file, 10) == ["only"]
