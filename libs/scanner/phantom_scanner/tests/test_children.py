"""What a child that has been taken over can do to its parent: nothing."""

import os
import pickle
import threading
import time

import pytest

from phantom_scanner import Limits, sandbox, scan

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(1))
    return path


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_endless_answer_is_cut_off(model, monkeypatch):
    endless = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    monkeypatch.setattr(sandbox, "_CHILD", endless)
    monkeypatch.setattr(sandbox, "_MAX_REPORT", 1_000_000)
    began = time.monotonic()
    report = scan(model, limits=Limits(wall_s=30))
    assert "more than 1,000,000 bytes" in report.unassessed["malware_scan"]
    assert report.blocks
    assert time.monotonic() - began < 20


def test_endless_errors_take_no_memory_and_the_last_line_is_told(model, monkeypatch):
    monkeypatch.setattr(
        sandbox, "_CHILD", "import sys; sys.stderr.write('x' * 3_000_000 + '\\nwhy'); sys.exit(3)"
    )
    assert scan(model).unassessed["structure"] == "the scan ended with 3: why"


def test_what_the_child_leaves_behind_ends_with_it_though_it_has_exited(model, tmp_path, monkeypatch):
    # It holds the pipes, too: waiting for their end would take as long as it lives.
    leaving = (
        "import os, sys, time\n"
        "pid = os.fork()\n"
        "if not pid: time.sleep(50); os._exit(0)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(pid))\n"
        "os._exit(0)"
    )
    monkeypatch.setattr(sandbox, "_CHILD", leaving)
    began = time.monotonic()
    report = scan(model, limits=Limits(wall_s=40))
    assert report.blocks
    assert time.monotonic() - began < 20
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(pid)


def test_a_scan_that_is_stopped_ends_at_once(model, monkeypatch):
    monkeypatch.setattr(sandbox, "_CHILD", "import time; time.sleep(50)")
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    began = time.monotonic()
    assert "was stopped" in scan(model, is_stopped=stop.is_set).unassessed["structure"]
    assert time.monotonic() - began < 10
    timer.join()


def test_no_descriptor_is_left(model):
    before = len(os.listdir("/proc/self/fd"))
    scan(model)
    assert len(os.listdir("/proc/self/fd")) == before
