"""A monitor by hand: publishes windows of a rollout's present step as if gateways had served it.

Windows may be published before they are over: nothing counts before that, and no test has to wait for the moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from phantom_contracts import topics
from phantom_contracts.events.base import Event
from phantom_contracts.events.monitor import GroupSums, LabelQuality, Sketch, WindowPublished, WindowsClosed
from phantom_platform.kafka import Producer
from phantom_platform.testing.events import publish, record
from phantom_statistics.latency import LatencySketch

GROUPS = 64
LENGTH = timedelta(seconds=5)


@dataclass(frozen=True)
class Traffic:
    """Of one revision in one window; each of the 64 unit groups has the same share of it."""

    requests: int = 640
    error_rate: float = 0.0
    latency_ms: float = 10.0
    accuracy: float | None = None
    log_loss: float = 0.3

    def fields(self) -> dict[str, Any]:
        each, failures = self._spread(self.requests), self._spread(round(self.requests * self.error_rate))
        correct = self._spread(round(self.requests * (self.accuracy or 0)))
        place = max(0, min(63, math.floor(2 * math.log2(self.latency_ms))))
        groups = {
            group: GroupSums(
                requests=each[group],
                failures=failures[group],
                labelled=each[group] if self.accuracy is not None else 0,
                correct=correct[group],
                log_loss=each[group] * self.log_loss if self.accuracy is not None else 0.0,
                latency={place: each[group] - failures[group]},
            )
            for group in range(GROUPS)
            if each[group]
        }
        return {
            "requests": self.requests,
            "answered": self.requests - sum(failures),
            "attempts": self.requests,
            "failed_attempts": sum(failures),
            "rows": self.requests,
            "groups": groups,
            "latency_ms": self._sketch(self.requests - sum(failures)),
            "classes": {"no": self.requests // 2, "yes": self.requests - self.requests // 2},
            "scores": {250: self.requests // 2, 750: self.requests - self.requests // 2},
            "quality": {"yes": LabelQuality()} if self.accuracy is not None else {},
        }

    @staticmethod
    def _spread(total: int) -> list[int]:
        return [total // GROUPS + (group < total % GROUPS) for group in range(GROUPS)]

    def _sketch(self, answers: int) -> Sketch:
        sketch = LatencySketch()
        sketch.add(np.full(answers, self.latency_ms))
        found = sketch.to_dict()
        return Sketch(**{name: found[name] for name in Sketch.model_fields if name in found})


class HandMonitor:
    """Of one endpoint."""

    workspace = "default"

    def __init__(self, producer: Producer, endpoint: str) -> None:
        self._producer = producer
        self.endpoint = endpoint

    async def window(
        self,
        traffic: Traffic,
        *,
        revision: str,
        arm: str,
        route_version: int,
        start: datetime,
        revision_no: int = 1,
        decision: str = "rollout",
        **fields: Any,
    ) -> None:
        event = WindowPublished(
            workspace=self.workspace,
            endpoint=self.endpoint,
            revision=revision,
            arm=arm,
            decision=decision,
            route_version=route_version,
            start=start,
            revision_no=revision_no,
            **({"state": "complete"} | traffic.fields() | fields),
        )
        await self._publish(event)

    async def closed(self, until: datetime) -> None:
        await self._publish(
            WindowsClosed(workspace=self.workspace, endpoint=self.endpoint, until=until, gateways=1)
        )

    async def serve(
        self, rollout: Any, candidate: Traffic | None, stable: Traffic | None = None, *, windows: int = 1
    ) -> datetime:
        """The first windows of the rollout's present step, as on the wire. Returns up to where it is known then."""
        start = first_window(rollout)
        for _ in range(windows):
            if candidate is not None:
                await self.window(
                    candidate,
                    revision=rollout.candidate,
                    arm="candidate",
                    route_version=rollout.route_version,
                    start=start,
                )
            if rollout.current_percentage < 100:
                await self.window(
                    stable or Traffic(),
                    revision=rollout.stable,
                    arm="control",
                    route_version=rollout.route_version,
                    start=start,
                )
            start += LENGTH
        await self.closed(start)
        return start

    async def _publish(self, event: Event) -> None:
        await publish(self._producer, record(topics.WINDOWS, f"{self.workspace}/{self.endpoint}", event))


def first_window(rollout: Any) -> datetime:
    """Of the present step, whose clock runs."""
    started = rollout.step_started_at.ToDatetime(UTC)
    return started + timedelta(seconds=-started.timestamp() % LENGTH.total_seconds())
