"""The first act: a rollout by hand. April's flights in time order while the weights move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from phantom_demo.figures import by_revision
from phantom_demo.people import People
from phantom_demo.replay import Ledger, Replay
from phantom_demo.training import NEW, OLD
from phantom_demo.view import Moment, View
from phantom_ml_studio import Deployments, Monitoring, PhantomError

# Share of the month after which the candidate gets this weight, percent; None completes the rollout.
STEPS: tuple[tuple[float, float | None], ...] = (
    (0.10, 10),
    (0.30, 25),
    (0.50, 50),
    (0.70, 100),
    (0.85, None),
)


@dataclass
class Act:
    """What the traffic was and what was done meanwhile."""

    ledger: Ledger
    elapsed_s: float
    memory_mb: float
    steps: list[str]


async def roll_out(
    people: People, endpoint: str, replay: Replay, total: int, memory: Callable[[], float]
) -> Act:
    """All calls of the replay while the candidate's weight moves."""
    watch = _Watch(people, endpoint, replay, total)
    began = time.perf_counter()
    with View() as view:
        # Whichever fails first ends the others.
        async with asyncio.TaskGroup() as group:
            shown = group.create_task(watch.paint(view, began))
            moved = group.create_task(watch.move())
            measured = group.create_task(_memory_under_load(replay, memory))
            ledger = await replay.run()
            elapsed_s = time.perf_counter() - began
            await asyncio.gather(moved, measured)
            shown.cancel()
    return Act(ledger, elapsed_s, measured.result(), watch.steps)


async def _memory_under_load(replay: Replay, memory: Callable[[], float]) -> float:
    """Taken in the middle of the traffic, while both revisions run."""
    await replay.reached(0.6)
    return await asyncio.to_thread(memory)


class _Watch:
    """Moves the weight as the month goes by, and paints."""

    def __init__(self, people: People, endpoint: str, replay: Replay, total: int) -> None:
        self._deployments = Deployments(people.engineer)
        self.monitoring = Monitoring(people.engineer)
        self._endpoint = endpoint
        self._replay = replay
        self._total = total
        self._weight = 0.0
        self._route_version = 0
        self._note = ""
        self.steps: list[str] = []

    async def move(self) -> None:
        """Each step once its share of the month has been answered."""
        for share, percent in STEPS:
            await self._replay.reached(share)
            began = time.perf_counter()
            if percent is None:
                done = await asyncio.to_thread(self._deployments.complete_rollout, self._endpoint)
                self._note = f"{OLD} is being withdrawn"
            else:
                done = await asyncio.to_thread(self._deployments.set_canary_weight, self._endpoint, percent)
                self._weight = percent
            self._route_version = done.route_version
            took_ms = (time.perf_counter() - began) * 1000
            what = f"{NEW} at {percent:g} %" if percent is not None else f"{NEW} is the stable revision"
            self.steps.append(f"{what}: route {done.route_version}, acknowledged after {took_ms:.0f} ms")
        began = time.perf_counter()
        await asyncio.to_thread(self._deployments.wait_withdrawn, self._endpoint)
        self._note = f"{OLD} is gone"
        self.steps.append(f"{OLD} drained and stopped after {time.perf_counter() - began:.1f} s")

    async def paint(self, view: View, began: float) -> None:
        """Once a second, for ever."""
        while True:
            view.show(await self.moment(time.perf_counter() - began))
            await asyncio.sleep(1.0)

    async def moment(self, elapsed_s: float) -> Moment:
        """What is to be seen now."""
        try:
            revisions = await asyncio.to_thread(self.monitoring.summary, self._endpoint)
        except PhantomError as error:
            revisions, self._note = [], error.message
        done = len(self._replay.ledger.calls)
        return Moment(
            elapsed_s,
            done,
            self._total,
            self._weight,
            self._route_version,
            by_revision(revisions),
            self._note,
        )
