"""A data directory in a temporary folder, and children that start in a blink."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phantom_local.embedded.process import Launch, free_port
from phantom_local.keeper import Child
from phantom_local.layout import Layout
from phantom_local.shutdown import stop_everything
from phantom_local.stack import readiness

FAKE = Path(__file__).with_name("fake_service.py")


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = Layout(tmp_path / "data")
    made.make()
    yield made
    stop_everything(made, lambda _: None)


def fake_child(layout: Layout, name: str, *args: str, usual: int | None = None) -> Child:
    """A real process with one port, `metrics`."""
    port = usual or free_port()

    def launch(ports: dict[str, int]) -> Launch:
        argv = [sys.executable, str(FAKE), str(ports["metrics"]), *args]
        return Launch(argv, layout.log(name), dict(os.environ))

    return Child(name, launch, lambda _, ports: readiness(ports["metrics"]), {"metrics": port})


def eventually(holds: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a condition of other processes."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
