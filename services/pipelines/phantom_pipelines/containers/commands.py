"""Commands of other programs, run to their end: their lines as they come, their last ones where they fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

KEPT_LINES = 40
LONGEST_LINE = 2000
_PRIVATE = ("PHANTOM_",)

Say = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (None: it took too long) and its last lines."""

    code: int | None
    lines: tuple[str, ...]

    @property
    def is_ok(self) -> bool:
        return self.code == 0

    @property
    def tail(self) -> str:
        return "\n".join(self.lines)


async def quiet(_: str) -> None:
    """Says nothing."""


async def run(command: Sequence[str], *, timeout_s: float, say: Say = quiet) -> Ended:
    """Run it without a shell and without our own settings in its environment; its children end with it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)},
        start_new_session=True,
        limit=1024 * 1024,
    )
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        async with asyncio.timeout(timeout_s):
            await _read(process, lines, say)
            return Ended(await process.wait(), tuple(lines))
    except TimeoutError:
        return Ended(None, (*lines, f"it took longer than {timeout_s:g} s"))
    finally:
        await _end(process)


async def _read(process: asyncio.subprocess.Process, lines: deque[str], say: Say) -> None:
    assert process.stdout is not None  # it is a pipe
    while raw := await process.stdout.readline():
        line = raw.decode(errors="replace").rstrip()[:LONGEST_LINE]
        if line:
            lines.append(line)
            await say(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
