"""Several workers behind one set of ports: the composition root of the process that starts and watches them.

It serves no call. It reserves the ports, starts the workers (`worker.py`), starts again what dies, and sums what they
say of themselves. It imports little: it is there beside every group.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from phantom_inference_gateway.domain import standing
from phantom_inference_gateway.domain.totals import Family, Rule, Totals
from phantom_inference_gateway.observation import Observation
from phantom_inference_gateway.settings import GatewaySettings
from phantom_inference_gateway.shared_port import SharedPort
from phantom_inference_gateway.worker import Worker
from phantom_platform.errors import Refused
from phantom_platform.lifecycle import Application, Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

NAME = "inference-gateway"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
STEADY_AFTER_S = 30.0
"""Alive for so long: the next pause is the first one again."""
DRAIN_S = 80.0
"""Longer than both doors of a worker may take; then it is killed."""
_LOOK_EVERY_S = 0.1

GAUGES: Mapping[str, Rule] = {
    # The least, so that a worker that lags behind is seen.
    "phantom_gateway_route_version": "least",
    "phantom_gateway_routes_stale": "greatest",
    # Each worker has a queue of its own before the same replicas.
    "phantom_gateway_expected_wait_seconds": "greatest",
    # Every worker reads the same topics.
    "phantom_gateway_bad_records": "greatest",
}
"""Gauges that are not summed."""


class Workers:
    """A part: `count` workers, each of which is started again when it dies. `drain` ends them, before `stop`."""

    name = "workers"

    def __init__(self, name: str, count: int, environment: Callable[[], Mapping[str, str]]) -> None:
        self.totals = Totals(time.monotonic, GAUGES)
        self.all = [Worker(f"{name}-{n}", environment, self.totals.take) for n in range(count)]
        self.has_started = False
        # Whether one of them had to be killed, or ended with another code than 0 when it was asked to.
        self.has_failed = False
        self._keepers = [Task(f"worker {each.name}", partial(self._keep, each)) for each in self.all]

    async def start(self) -> None:
        """Returns when all have started. `Refused` where one ends before: starting it again would not help."""
        try:
            for worker in self.all:
                await worker.start()
            await asyncio.gather(*(self._started(worker) for worker in self.all))
        except BaseException:
            await self.drain()
            raise
        self.has_started = True
        for keeper in self._keepers:
            await keeper.start()

    async def drain(self) -> None:
        """Ask every worker to finish what it has, and wait for the last one."""
        for keeper in self._keepers:
            await keeper.stop()
        for worker in self.all:
            worker.ask_to_stop()
        ends = [asyncio.create_task(worker.ended()) for worker in self.all]
        _, late = await asyncio.wait(ends, timeout=DRAIN_S)
        for worker in self.all if late else ():
            if worker.pid is not None:
                log.error(
                    "worker killed: it did not stop in time", action="worker_killed", worker=worker.name
                )
                worker.kill()
        codes = await asyncio.gather(*ends)
        self.has_failed = any(codes)

    async def stop(self) -> None:
        """They have been drained."""

    async def standings(self) -> list[standing.Standing]:
        """How each is."""
        return list(await asyncio.gather(*(worker.standing() for worker in self.all)))

    async def metrics(self) -> list[Family]:
        """The workers' as one, and which of them answered."""
        answered = await asyncio.gather(*(worker.report() for worker in self.all))
        for worker, has_answered in zip(self.all, answered, strict=True):
            if not has_answered:
                self.totals.miss(worker.name)
        up = [float(each) for each in answered]
        starts = [float(worker.starts) for worker in self.all]
        return [
            *self.totals.families(),
            self._of_each("phantom_gateway_worker_up", "gauge", "1 where the worker answers", up),
            self._of_each(
                "phantom_gateway_worker_starts_total", "counter", "Processes of the worker", starts
            ),
        ]

    def _of_each(self, name: str, kind: str, help_text: str, values: Sequence[float]) -> Family:
        keys = [(name, (("worker", worker.name),)) for worker in self.all]
        return Family(name, kind, help_text, dict(zip(keys, values, strict=True)))

    async def _started(self, worker: Worker) -> None:
        ended = asyncio.create_task(worker.ended())
        try:
            while not (await worker.standing()).is_running:
                if (await asyncio.wait([ended], timeout=_LOOK_EVERY_S))[0]:
                    raise Refused(
                        f"worker {worker.name} ended with {worker.ending} before it served; what it said is above",
                        code="worker_failed",
                        worker=worker.name,
                    )
        finally:
            ended.cancel()
        log.info("worker ready", action="worker_ready", worker=worker.name, pid=worker.pid)

    async def _keep(self, worker: Worker) -> None:
        pause_s, born = FIRST_PAUSE_S, time.monotonic()
        while True:
            await worker.ended()
            self.totals.bury(worker.name)
            if time.monotonic() - born > STEADY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            log.error(
                "worker died and is started again",
                action="worker_died",
                worker=worker.name,
                ending=worker.ending,
                pause_s=pause_s,
            )
            await asyncio.sleep(pause_s)
            pause_s, born = min(2 * pause_s, LONGEST_PAUSE_S), time.monotonic()
            await worker.start()


class GroupApp(Application):
    """The group's process, with what tests look at: the ports where 0 was asked for, and the workers."""

    grpc: SharedPort
    rest: SharedPort
    observation: Observation
    workers: Workers

    async def run(self) -> int:
        """As every application's; 1, too, where a worker did not stop as it should."""
        return await super().run() or int(self.workers.has_failed)

    async def stop(self) -> None:
        """The workers first: they may take longer than a part."""
        if self.workers.has_started:
            await self.workers.drain()
        await super().stop()

    async def standing(self) -> tuple[dict[str, str], list[str]]:
        """The reasons against sending work here, and what needs attention."""
        has_started, each = self.workers.has_started, await self.workers.standings()
        reasons = standing.unready(each, has_started=has_started)
        return self.unready() | reasons, standing.attention(each, has_started=has_started)


def build(settings: GatewaySettings) -> GroupApp:
    """The group. Must be called inside the event loop that runs it."""
    app = GroupApp(NAME)
    app.grpc = app.add(
        SharedPort("gRPC", settings.host, settings.grpc_port, setting="PHANTOM_GATEWAY_GRPC_PORT")
    )
    app.rest = app.add(
        SharedPort("REST", settings.host, settings.http_port, setting="PHANTOM_GATEWAY_HTTP_PORT")
    )
    # Before the workers, so that it says what they wait for.
    app.workers = Workers(settings.worker, settings.workers, lambda: _environment(app))
    app.observation = app.add(
        Observation(settings.host, settings.metrics_port, app.workers.metrics, app.standing)
    )
    app.add(app.workers)
    return app


def _environment(app: GroupApp) -> dict[str, str]:
    return {
        "PHANTOM_GATEWAY_GRPC_PORT": str(app.grpc.port),
        "PHANTOM_GATEWAY_HTTP_PORT": str(app.rest.port),
        "PHANTOM_GATEWAY_WORKERS": "1",
    }
