"""A replica behind its gate in virtual time: real frames, and a model server with a time a frame and a time a call."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from phantom_inference_gateway.domain.admission import AdmissionRule, Gate
from phantom_inference_gateway.domain.frames import Frame, FrameLimits, FrameQueue

SWEEP_S = 0.02


@dataclass(eq=False, slots=True)
class SimulatedCall:
    came: float
    deadline: float
    body: bytes = b""
    is_alone: bool = False
    is_done: bool = False


@dataclass
class Simulation:
    """Run `arrive` calls, then `run`; `waits` are the times of what was answered, by when it came."""

    gate: Gate
    # Of the model server: seconds a frame and seconds a call, and how many frames it answers at once.
    frame_s: float
    call_s: float
    workers: int = 1
    now: float = 0.0
    outstanding: int = 0
    most: int = 0
    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    is_stopped: bool = False

    def __post_init__(self) -> None:
        self._queue: FrameQueue[SimulatedCall] = FrameQueue(FrameLimits())
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._server: list[Frame[SimulatedCall]] = []
        self._busy = 0
        self._at(SWEEP_S, self._sweep)

    def arrive(self, times: Iterable[float], patience_s: float = 30.0) -> None:
        for time in times:
            self._at(time, lambda time=time: self._come(time + patience_s))

    def at(self, time: float, act: Callable[[], None]) -> None:
        self._at(time, act)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heapq.heappop(self._events)
            act()
        self.now = until

    def goodput(self, start: float, stop: float) -> float:
        return sum(start <= came + took < stop for came, took in self.answered) / (stop - start)

    def p99(self, start: float, stop: float) -> float:
        waits = sorted(took for came, took in self.answered if start <= came < stop)
        return waits[int(len(waits) * 0.99)] if waits else float("nan")

    def resume(self) -> None:
        self.is_stopped = False
        self._work()

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), act))

    def _come(self, deadline: float) -> None:
        if not self.gate.admit(self.outstanding, self.now, deadline):
            self.refused.append(self.now)
            return
        self.outstanding += 1
        self.most = max(self.most, self.outstanding)
        self._queue.add(SimulatedCall(self.now, deadline), self.now)
        self._at(self.now, self._write)

    def _write(self) -> None:
        while (due := self._queue.due(self.now)) == 0.0:
            if (frame := self._queue.cut(self.now)) is not None:
                self._server.append(frame)
                self._work()
        if due is not None:
            self._at(self.now + due + 1e-9, self._write)

    def _work(self) -> None:
        while self._server and self._busy < self.workers and not self.is_stopped:
            frame = self._server.pop(0)
            self._busy += 1
            took = self.frame_s + self.call_s * len(frame.calls)
            self._at(self.now + took, lambda frame=frame: self._answer(frame))

    def _answer(self, frame: Frame[SimulatedCall]) -> None:
        self._busy -= 1
        self._queue.answered(frame.sequence)
        for call in frame.calls:
            if not call.is_done:
                call.is_done = True
                self.outstanding -= 1
                took = self.now - call.came
                self.gate.answered(took, self.now)
                self.answered.append((call.came, took))
        self._work()
        self._write()

    def _sweep(self) -> None:
        for call in self._queue.expired(self.now):
            call.is_done = True
            self.outstanding -= 1
            self.late.append(self.now)
            self.gate.late(self.now)
        self._at(self.now + SWEEP_S, self._sweep)


def simulation(
    frame_s: float = 0.0005, call_s: float = 1 / 300, workers: int = 1, **rule: float
) -> Simulation:
    return Simulation(Gate(AdmissionRule(**rule)), frame_s, call_s, workers)  # type: ignore[arg-type]


def poisson(rate: float, start: float, stop: float, seed: int = 7) -> list[float]:
    seeded, times, time = random.Random(seed), [], start
    while (time := time + seeded.expovariate(rate)) < stop:
        times.append(time)
    return times
