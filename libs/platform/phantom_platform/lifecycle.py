"""Start in order, say when ready, drain on SIGTERM, die loudly.

An `Application` holds parts. They start in the order they were added and stop in reverse, so a part may use
every part before it for as long as it lives. A `Task` is a part made of a coroutine function; while an
application runs, the death of any task started under it (by an exception, or by returning unasked) takes the
whole process down with exit code 1, because a service that has silently lost its consumer looks healthy.

A part that needs background work keeps a `Task` inside itself and starts it from its own `start`: the
application hears of its death all the same.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar, runtime_checkable

import uvloop

from phantom_platform.telemetry import logs

if TYPE_CHECKING:
    from phantom_platform.rpc.servicer import Servicer

log = logs.get(__name__)

STOP_TIMEOUT_S = 40.0
"""The longest one part may take to stop; more than the 30 s for which an RPC may drain."""


@runtime_checkable
class Part(Protocol):
    """Something with a beginning and an end."""

    name: str

    async def start(self) -> None:
        """Return when ready for use; raise to refuse the start of the whole process."""

    async def stop(self) -> None:
        """Finish what was begun, then release everything. Called once, only after `start` returned."""


@runtime_checkable
class Watched(Protocol):
    """A part with something to say to an operator: what should not be so although it goes on working."""

    def attention(self) -> Sequence[str]:
        """Sentences, empty where all is well. Never waits: whoever asks wants to know now."""


PartT = TypeVar("PartT", bound=Part)


@dataclass(frozen=True)
class Readiness:
    """One reason to send work here, or not to."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class Death:
    """A background task that ended although nobody asked it to."""

    task: str
    error: BaseException | None

    def __str__(self) -> str:
        what = "returned unasked" if self.error is None else f"failed: {self.error!r}"
        return f"task {self.task!r} {what}"


_undertaker: ContextVar[Callable[[Death], None] | None] = ContextVar("phantom_undertaker", default=None)


class Task:
    """A part from a coroutine function that is meant to run until it is cancelled."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._run = run
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def start(self) -> None:
        if self._task is not None:
            raise RuntimeError(f"task {self.name!r} was started twice")
        self._task = asyncio.create_task(self._watch(_undertaker.get()), name=self.name)

    async def stop(self) -> None:
        """Cancel it and wait until it has ended; its own clean-up may take as long as it needs."""
        self._is_stopping = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self, report: Callable[[Death], None] | None) -> None:
        error: BaseException | None = None
        try:
            await self._run()
        except asyncio.CancelledError:
            if self._is_stopping:
                raise
            error = asyncio.CancelledError("cancelled by someone who does not own it")
        except Exception as raised:
            error = raised
        if self._is_stopping:
            if error is not None:
                log.error(
                    "task failed while stopping", action="task_stop_failed", task=self.name, exc_info=error
                )
            return
        log.critical("background task died", action="task_died", task=self.name, exc_info=error)
        if report is not None:
            report(Death(self.name, error))


@dataclass
class Application:
    """The parts of one service, or of several services in one process."""

    name: str
    servicers: list[Servicer] = field(default_factory=list)
    readiness: dict[str, Callable[[], Readiness]] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    concerns: list[Callable[[], Sequence[str]]] = field(default_factory=list)
    _started: list[Part] = field(default_factory=list, repr=False)
    _deaths: list[Death] = field(default_factory=list, repr=False)
    _wake: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _signals: int = field(default=0, repr=False)
    _state: str = field(default="starting", repr=False)

    def add(self, part: PartT) -> PartT:
        """Append a part; it starts after, and stops before, every part added so far."""
        self.parts.append(part)
        if isinstance(part, Watched):
            self.concerns.append(part.attention)
        return part

    def merge(self, other: Application) -> None:
        """Take over everything of another service, to run it in this process."""
        self.parts.extend(other.parts)
        self.servicers.extend(other.servicers)
        self.concerns.extend(other.concerns)
        for name, check in other.readiness.items():
            self.readiness[f"{other.name}.{name}"] = check

    def unready(self) -> dict[str, str]:
        """The reasons why no work should be sent here now; empty when ready."""
        if self._state != "running":
            return {"lifecycle": self._state}
        verdicts = {name: check() for name, check in self.readiness.items()}
        return {name: verdict.reason or "not ready" for name, verdict in verdicts.items() if not verdict.ok}

    def needing_attention(self) -> list[str]:
        """What an operator should look at although it serves, each sentence once."""
        return list(dict.fromkeys(sentence for concern in self.concerns for sentence in concern()))

    async def start(self) -> None:
        """Start the parts in order. If one fails, the started ones are stopped and its error is raised."""
        _undertaker.set(self._bury)
        for part in self.parts:
            try:
                await part.start()
            except BaseException:
                log.error("part did not start", action="part_start_failed", part=part.name)
                await self.stop()
                raise
            self._started.append(part)
            log.debug("part started", action="part_started", part=part.name)
        self._state = "running"

    async def stop(self) -> None:
        """Stop the started parts in reverse; one that fails or hangs does not keep the others from stopping."""
        self._state = "stopping"
        while self._started:
            part = self._started.pop()
            try:
                await asyncio.wait_for(part.stop(), STOP_TIMEOUT_S)
            except TimeoutError:
                log.error("part did not stop in time", action="part_stop_timeout", part=part.name)
            except Exception as error:
                log.error(
                    "part did not stop cleanly", action="part_stop_failed", part=part.name, exc_info=error
                )

    async def run(self) -> int:
        """Start, serve until SIGTERM, SIGINT or a death, stop gracefully. Returns the exit code: 0, or 1."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            return await self._run_until_asked()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _run_until_asked(self) -> int:
        asked = asyncio.create_task(self._wake.wait())
        starting = asyncio.create_task(self.start())
        await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()  # its own error path stops what has started
        await asyncio.wait([starting])
        if starting.cancelled():
            asked.cancel()
            return 1 if self._deaths else 0
        if (error := starting.exception()) is not None:
            asked.cancel()
            log.critical(
                "did not start", action="start_failed", app=self.name, error=str(error), exc_info=error
            )
            return 1
        log.info("ready", action="ready", app=self.name)
        await asked
        for death in self._deaths:
            log.critical("stopping because a task died", action="stopping_dead_task", death=str(death))
        await self.stop()
        log.info("stopped", action="stopped", app=self.name)
        return 1 if self._deaths else 0

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("stopped at once by a second signal", action="stop_forced")
            logs.flush()
            # The first signal asked for a graceful end; the second says that nobody will wait for it.
            signal.raise_signal(signal.SIGKILL)
        log.info("asked to stop", action="stop_asked")
        self._state = "stopping"
        self._wake.set()

    def _bury(self, death: Death) -> None:
        self._deaths.append(death)
        self._wake.set()


def run(build: Callable[[], Application]) -> NoReturn:
    """The last line of every `__main__`: build the application inside a uvloop, run it, exit with its code."""

    async def main() -> int:
        try:
            app = build()
        except Exception as error:
            log.critical("cannot be set up", action="build_failed", error=str(error), exc_info=error)
            return 1
        return await app.run()

    sys.exit(uvloop.run(main()))
