"""One place in a worker group, and the process that fills it: started, asked, ended. Used by the group alone."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from phantom_inference_gateway.channel import METRICS, STANDING, UNASKED, Channel, read
from phantom_inference_gateway.domain.standing import Standing
from phantom_inference_gateway.domain.totals import Family
from phantom_platform.telemetry import logs

log = logs.get(__name__)

ANSWER_S = 1.5
"""Shorter than those wait who ask the group."""
_LAST_WORDS_S = 5.0

Taken = Callable[[str, Iterable[Family]], None]


class Worker:
    """`environment` makes the settings of its process; `taken` is given every report of its metrics."""

    def __init__(self, name: str, environment: Callable[[], Mapping[str, str]], taken: Taken) -> None:
        self.name = name
        self.starts = 0
        # How its last process ended; empty while it runs.
        self.ending = "not started"
        self.exit_code: int | None = None
        # Whether it had started when it last said how it is.
        self._is_running = False
        # Nobody is at the other end of the channel: the process has ended, or is about to.
        self._has_gone = False
        self._environment = environment
        self._taken = taken
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._awaited: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(UNASKED + 1)

    async def start(self) -> None:
        """A new process; returns at once, long before it is ready."""
        ours, theirs = socket.socketpair()
        try:
            theirs.set_inheritable(True)
            arguments = ["--worker", self.name, "--channel", str(theirs.fileno())]
            # Not waited for anywhere before it is kept: a cancelled start leaves no process that nobody knows.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a fork and our own module
                [sys.executable, "-m", "phantom_inference_gateway", *arguments],
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                # What ours was given to keep (a supervisor's lock) and the port's lock stay held while a worker lives.
                close_fds=False,
                # A terminal's Ctrl-C is for the group's process, which asks the workers.
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.starts += 1
        self.ending, self.exit_code = "", None
        self._is_running = self._has_gone = False
        self._channel = await Channel.over(ours)
        self._hearing = asyncio.create_task(self._hear(self._channel))
        log.info("worker started", action="worker_started", worker=self.name, pid=self._process.pid)

    @property
    def pid(self) -> int | None:
        """None while it has no process."""
        return None if self._process is None or self.ending else self._process.pid

    async def ended(self) -> int:
        """Wait for the end of its process, and for its last report; the exit code, negative for a signal."""
        process = self._process
        if process is None:
            return 0
        if self.exit_code is None:
            await _exit_of(process.pid)
            self.exit_code = process.wait()
            self.ending = (
                f"exit code {self.exit_code}" if self.exit_code >= 0 else f"signal {-self.exit_code}"
            )
        if self._hearing is not None:
            await asyncio.wait([self._hearing], timeout=_LAST_WORDS_S)
        if self._channel is not None:
            self._channel.close()
        return self.exit_code

    def ask_to_stop(self) -> None:
        """It drains, then ends."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def standing(self) -> Standing:
        """How it is; a worker that does not answer is not ready."""
        if self.ending:
            return Standing(self.name, False, {"process": f"it ended ({self.ending}) and is started again"})
        said = await self._ask(STANDING)
        if said is None and self._has_gone:
            return Standing(self.name, False, {"process": "it has just ended and will be started again"})
        if said is None:
            why = "does not answer" if self._is_running else "starting"
            return Standing(self.name, self._is_running, {"process": why})
        reasons = said["reasons"]
        self._is_running = "lifecycle" not in reasons
        return Standing(self.name, self._is_running, reasons, said["attention"])

    async def report(self) -> bool:
        """Have its metrics taken; False where it does not answer."""
        return await self._ask(METRICS) is not None

    async def _ask(self, what: str) -> dict[str, Any] | None:
        channel = self._channel
        if channel is None or self.ending:
            return None
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._awaited[number] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                await channel.send({"id": number, "what": what})
                return await answer
        except TimeoutError:
            return None
        except OSError:
            self._has_gone = True
            return None
        finally:
            del self._awaited[number]

    async def _hear(self, channel: Channel) -> None:
        while (said := await channel.receive()) is not None:
            if "families" in said:
                self._taken(self.name, read(said["families"]))
            answer = self._awaited.get(said["id"])
            if answer is not None and not answer.done():
                answer.set_result(said)
        self._has_gone = True
        for answer in self._awaited.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the worker has ended"))

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


async def _exit_of(pid: int) -> None:
    """Returns when the process has ended; it is not reaped."""
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    fd = os.pidfd_open(pid)
    loop.add_reader(fd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
