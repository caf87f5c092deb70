"""`up --detach` and the end of it: a supervisor in a session of its own, watched until it is ready."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from phantom_local.children import is_locked, live_process, wait_gone
from phantom_local.layout import Layout, read_json

_STOP_S = 180.0  # longer than everything below it may take


def run_detached(layout: Layout, gateways: tuple[int, int], timeout_s: float) -> int:
    """Start `up` in the background and pass on what it says until it is ready. Returns its exit code, or 0.

    `gateways` says how many, and of how many processes each.
    """
    layout.make()
    log = layout.log("up")
    with log.open("ab") as file:
        begin = file.tell()
        argv = [sys.executable, "-m", "phantom_local", "up"]
        argv += ["--gateways", str(gateways[0]), "--gateway-workers", str(gateways[1])]
        argv += ["--timeout", str(timeout_s), "--data-dir", str(layout.data_dir)]
        process = subprocess.Popen(  # noqa: S603 - our own module
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    while True:
        code = process.poll()
        begin = _pass_on(log, begin)
        if code is not None:
            return code
        stack = read_json(layout.stack_file) or {}
        if stack.get("pid") == process.pid and stack.get("state") == "ready":
            _pass_on(log, begin)
            return 0
        time.sleep(0.05)


def stop_supervisor(layout: Layout, say: Callable[[str], None]) -> None:
    """Ask a living supervisor to stop everything and wait for it; one that hangs is killed."""
    pid = (read_json(layout.stack_file) or {}).get("pid")
    if not is_locked(layout.run / "up.lock") or not isinstance(pid, int):
        return
    process = live_process(pid)
    if process is None:
        return
    say(f"asking `up` (pid {pid}) to stop everything")
    process.terminate()
    if wait_gone([process], _STOP_S):
        say("`up` does not stop: killing it")
        process.kill()
        wait_gone([process], 5.0)


def _pass_on(log: Path, begin: int) -> int:
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    sys.stderr.write(whole.decode(errors="replace"))
    sys.stderr.flush()
    return begin + len(whole)
