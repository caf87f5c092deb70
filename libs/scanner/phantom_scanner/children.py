"""A child process that is not trusted: what it says is bounded, and whatever it has started ends with it."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from typing import IO

LOOK_EVERY_S = 0.5
EXIT_WITHIN_S = 0.01
"""Between the end of its words and its own."""
ERRORS_KEPT = 64 * 1024
"""Bytes of stderr: its end."""


def read(
    process: subprocess.Popen[bytes], within_s: float, max_bytes: int, is_stopped: Callable[[], bool]
) -> tuple[bytes, bytes, str]:
    """(stdout, the end of stderr, why it was not read to its end, else empty).

    Until both are closed, or the child has exited: who holds its pipes after that has nothing to say.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    until = time.monotonic() + within_s
    said: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    why = ""
    with selectors.DefaultSelector() as selector:
        for stream in said:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        while not why and (selector.get_map() or not _has_exited(process)):
            had_exited = _has_exited(process)
            pause_s = LOOK_EVERY_S if selector.get_map() else EXIT_WITHIN_S
            ready = selector.select(0 if had_exited else min(pause_s, max(until - time.monotonic(), 0)))
            for key, _ in ready:
                _take(key.fileobj, said, selector)  # type: ignore[arg-type]  # what was registered
            del said[process.stderr][:-ERRORS_KEPT]
            if len(said[process.stdout]) > max_bytes:
                why = f"the scan answered more than {max_bytes:,} bytes"
            elif is_stopped():
                why = "the scan was stopped"
            elif time.monotonic() >= until:
                why = f"the scan took longer than {within_s:g} s"
            elif had_exited and not ready:
                break
    return bytes(said[process.stdout]), bytes(said[process.stderr]), why


def end(process: subprocess.Popen[bytes]) -> None:
    """The child and whatever it has started, also where it has exited itself. Its exit status is read here only: until
    then no other process group can have its number."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _take(stream: IO[bytes], said: dict[IO[bytes], bytearray], selector: selectors.BaseSelector) -> None:
    part = os.read(stream.fileno(), 1 << 16)
    if part:
        said[stream] += part
    else:
        selector.unregister(stream)


def _has_exited(process: subprocess.Popen[bytes]) -> bool:
    """Without reading its exit status."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
