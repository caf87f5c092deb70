"""A worker's side of its group: it tells the group's process what it is asked, and ends when that has gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry

from phantom_inference_gateway.channel import METRICS, STANDING, UNASKED, Channel, written
from phantom_inference_gateway.domain.totals import Family, SampleKey
from phantom_platform.errors import Refused
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)


class Membership:
    """A part: in place of a metrics port of its own. `end` is this worker's end of the channel."""

    name = "worker group"

    def __init__(
        self,
        end: socket.socket,
        registry: CollectorRegistry,
        unready: Callable[[], Mapping[str, str]],
        attention: Callable[[], Sequence[str]],
    ) -> None:
        self._end = end
        self._registry = registry
        self._unready = unready
        self._attention = attention
        self._task = Task("worker group", self._answer)
        self._channel: Channel | None = None

    async def start(self) -> None:
        self._channel = await Channel.over(self._end)
        await self._task.start()

    async def stop(self) -> None:
        """Everything else has stopped: these counts are final."""
        await self._task.stop()
        if self._channel is not None:
            with suppress(OSError):
                await self._channel.send({"id": UNASKED, **self._metrics()})
            self._channel.close()

    async def _answer(self) -> None:
        channel = self._channel
        assert channel is not None
        answers = {METRICS: self._metrics, STANDING: self._standing}
        while (asked := await channel.receive()) is not None:
            with suppress(OSError):
                await channel.send({"id": asked["id"], **answers[asked["what"]]()})
        log.warning("the group's process has gone: this worker ends", action="group_gone")
        # As if it had been asked to stop; where it was already, nobody waits for it any more.
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    def _metrics(self) -> dict[str, object]:
        return {"families": written(families(self._registry))}

    def _standing(self) -> dict[str, object]:
        return {"reasons": dict(self._unready()), "attention": list(self._attention())}


def inherited(fd: int) -> socket.socket:
    """The end of the channel that the group's process left open for this one. `Refused` where it is none."""
    try:
        end = socket.socket(fileno=fd)
    except OSError as error:
        raise Refused(_NO_GROUP, code="no_worker_group") from error
    if end.family != socket.AF_UNIX:
        end.detach()
        raise Refused(_NO_GROUP, code="no_worker_group")
    end.set_inheritable(False)
    return end


def families(registry: CollectorRegistry) -> list[Family]:
    """Everything in a registry as it is exposed. When a counter was made says nothing of a sum, and is left out."""
    found = []
    for metric in registry.collect():
        samples: dict[SampleKey, float] = {
            (sample.name, tuple(sample.labels.items())): sample.value
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        found.append(Family(name, metric.type, metric.documentation, samples))
    return found


_NO_GROUP = (
    "--channel is for workers that a group starts: set PHANTOM_GATEWAY_WORKERS and start the gateway "
    "without arguments"
)
