"""Scans take turns, and end with who asked for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phantom_pipelines.runners import scans
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.timeout(30)


class Slow:
    """A scan that lasts until it is let go or stopped."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = 0
        self.stopped = 0
        self.names: set[str] = set()
        self.go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, path: Path, *, is_stopped: Callable[[], bool], **_: Any) -> str:
        with self._lock:
            self.running += 1
            self.begun += 1
            self.names.add(threading.current_thread().name.split("_")[0])
        while not self.go.is_set() and not is_stopped():
            time.sleep(0.01)
        with self._lock:
            self.running -= 1
            self.stopped += is_stopped()
        return str(path)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow()
    monkeypatch.setattr(scans, "scan", made)
    return made


async def test_two_scans_run_at_once_on_threads_of_their_own(slow: Slow) -> None:
    asked = scans.Scans()
    tasks = [asyncio.create_task(asked.scan(Path(str(n)), "", None)) for n in range(5)]
    await until(lambda: slow.running == 2)
    assert await asyncio.to_thread(lambda: slow.begun) == 2
    slow.go.set()
    assert await asyncio.gather(*tasks) == ["0", "1", "2", "3", "4"]
    assert slow.names == {"scan"}


async def test_a_cancelled_scan_ends_and_one_that_waits_is_never_begun(slow: Slow) -> None:
    asked = scans.Scans()
    tasks = [asyncio.create_task(asked.scan(Path(str(n)), "", None)) for n in range(3)]
    await until(lambda: slow.running == 2)
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: slow.running == 0)
    assert (slow.begun, slow.stopped) == (2, 2)
