"""A child is restarted when it dies, adopted when it lives, and never there twice."""

import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from phantom_local.children import Record, find, is_locked, live_process, take_lock
from phantom_local.embedded.process import Launch, ServerError, free_port
from phantom_local.keeper import Child, Keeper, choose_ports
from phantom_local.layout import Layout
from phantom_local.shutdown import stop_child

from .conftest import eventually, fake_child


def _kept(child: Child, layout: Layout, said: list[str] | None = None) -> Keeper:
    keeper = Keeper(child, layout, (said if said is not None else []).append)
    keeper.start()
    eventually(keeper.ready.is_set)
    return keeper


def _pid(keeper: Keeper) -> int:
    assert keeper.record
    return keeper.record.pid


def test_a_killed_child_is_started_again_on_the_same_port(layout: Layout) -> None:
    said: list[str] = []
    keeper = _kept(fake_child(layout, "fake"), layout, said)
    first, port = _pid(keeper), keeper.ports["metrics"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: _pid(keeper) != first and keeper.ready.is_set())
    assert keeper.ports["metrics"] == port
    assert any("signal 9" in line for line in said)
    keeper.leave()


def test_a_living_child_is_adopted_and_watched_on(layout: Layout) -> None:
    child = fake_child(layout, "fake")
    first = _kept(child, layout)
    first.leave()  # as if the supervisor had died
    second = _kept(child, layout)
    assert _pid(second) == _pid(first)
    os.kill(_pid(first), signal.SIGKILL)
    eventually(lambda: _pid(second) != _pid(first) and second.ready.is_set())
    second.leave()


def test_a_living_child_with_other_settings_is_replaced(layout: Layout) -> None:
    child = fake_child(layout, "fake")
    first = _kept(child, layout)
    first.leave()

    def other(ports: dict[str, int]) -> Launch:
        launch = child.launch(ports)
        return replace(launch, env={**launch.env, "PHANTOM_LOG_LEVEL": "DEBUG"})

    second = _kept(replace(child, launch=other), layout)
    assert _pid(second) != _pid(first)
    assert live_process(_pid(first)) is None
    second.leave()


def test_a_child_whose_record_is_lost_is_found_by_its_lock_and_replaced(layout: Layout) -> None:
    child = fake_child(layout, "fake")
    first = _kept(child, layout)
    first.leave()
    (layout.run / "fake.json").write_text("{ damaged")
    assert [p.pid for p in find(layout.run / "fake.json", layout.run / "fake.lock")] == [_pid(first)]
    second = _kept(child, layout)
    assert live_process(_pid(first)) is None
    second.leave()


def test_a_recorded_pid_that_somebody_else_has_now_is_not_ours(layout: Layout) -> None:
    record = Record("fake", os.getpid(), started_at=1.0)
    record.write(layout.run / "fake.json")
    assert record.process is None
    assert find(layout.run / "fake.json", layout.run / "fake.lock") == []
    keeper = _kept(fake_child(layout, "fake"), layout)
    assert _pid(keeper) != os.getpid()
    keeper.leave()


def test_a_taken_port_is_replaced_and_said(layout: Layout) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        keeper = _kept(fake_child(layout, "fake", usual=port), layout, said)
        assert keeper.ports["metrics"] != port
    assert any(f"port {port} (metrics) is taken" in line for line in said)
    keeper.leave()


def test_ports_are_the_last_else_the_usual_else_any() -> None:
    usual, last = free_port(), free_port()
    assert choose_ports({"a": usual}, {}) == {"a": usual}
    assert choose_ports({"a": usual}, {"a": last}) == {"a": last}
    with socket.create_server(("127.0.0.1", last)):
        assert choose_ports({"a": usual}, {"a": last}) == {"a": usual}


def test_an_unready_child_says_why_and_one_that_cannot_start_counts_failures(layout: Layout) -> None:
    keeper = Keeper(fake_child(layout, "fake", "no disk left"), layout, lambda _: None)
    keeper.start()
    eventually(lambda: "no disk left" in keeper.reason)
    assert not keeper.ready.is_set()
    keeper.leave()

    def broken(_: dict[str, int]) -> Launch:
        raise ServerError("no Java")

    said: list[str] = []
    other = Keeper(Child("broken", broken, lambda *_: ""), layout, said.append)
    other.start()
    eventually(lambda: other.failures >= 2)
    assert "no Java" in said[0]
    other.leave()


def test_a_child_that_ignores_sigterm_is_killed_when_stopped(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"

    def launch(_: dict[str, int]) -> Launch:
        return Launch([sys.executable, "-c", script], layout.log("deaf"))

    child = Child("deaf", launch, lambda *_: "" if layout.log("deaf").read_text() else "silent")
    keeper = _kept(child, layout)
    keeper.leave()
    monkeypatch.setattr("phantom_local.shutdown._STOP_S", {"deaf": 0.2})
    said: list[str] = []
    stop_child(layout, "deaf", said.append)
    assert "killed" in said[0]
    assert not is_locked(layout.run / "deaf.lock")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    descriptor = take_lock(tmp_path / "x.lock")
    assert descriptor is not None
    assert take_lock(tmp_path / "x.lock", patience_s=0.05) is None
    os.close(descriptor)
    assert not is_locked(tmp_path / "x.lock")
