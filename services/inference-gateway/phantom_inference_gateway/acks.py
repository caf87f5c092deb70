"""What this process tells the deployer on `route-acks`: that it joined, what it applied and drained, that it left.

Nothing on the request path waits for it. At most one record is unacknowledged, and none is queued behind it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from phantom_contracts.events.base import Event
from phantom_contracts.events.gateway import EndpointProgress, GatewayHeartbeat, GatewayJoined, GatewayLeft
from phantom_contracts.topics import ROUTE_ACKS
from phantom_platform import cloudevents, ids
from phantom_platform.clock import Clock
from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

SOURCE = "phantom/inference-gateway"
HEARTBEAT_S = 1.0
UNREACHABLE_S = 5.0
"""How long Kafka may be unreachable at start before this process serves from its snapshot."""
LEAVE_S = 3.0


class AckProducer(Protocol):
    """What sends one record and returns when Kafka has acknowledged it. Raises Unavailable."""

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: cloudevents.Headers
    ) -> object: ...


class Followed(Protocol):
    """A projection: read everything that is in its topic now. Raises Unavailable."""

    async def caught_up(self) -> None: ...


class Acks:
    """A part. `start` returns when this process may serve: joined and the routes read, or Kafka unreachable.

    While Kafka answers, the snapshot never serves, however long the reading takes. Heartbeats begin with the join:
    the deployer waits for everybody who has joined, and drops whoever is silent.
    """

    name = "route-acks"

    def __init__(
        self,
        boot_id: str,
        producer: AckProducer,
        projections: tuple[Followed, ...],
        progress: Callable[[], Mapping[str, EndpointProgress]],
        in_flight: Callable[[], int],
        clock: Clock,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
        unreachable_s: float = UNREACHABLE_S,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._boot_id = boot_id
        self._producer = producer
        self._projections = projections
        self._progress = progress
        self._in_flight = in_flight
        self._clock = clock
        self._prepare = prepare
        self._unreachable_s = unreachable_s
        self._heartbeat_s = heartbeat_s
        self._joined = asyncio.Event()
        # Set when everything that was in the topics after the join was acknowledged has been read.
        self._synced = asyncio.Event()
        self._task = Task("route-acks:heartbeat", self._run)
        # Since when Kafka has owed an acknowledgement, by the loop's time; None while it owes none.
        self._owed_since: float | None = None
        # What the last attempt to join or to read failed of.
        self._trouble = ""
        self._has_given_up = self._serves_snapshot = False
        self.sent = 0
        self.failed = 0

    @property
    def has_joined(self) -> bool:
        return self._joined.is_set()

    @property
    def is_stale(self) -> bool:
        """Whether the routes may be older than what Kafka holds."""
        return not self._synced.is_set()

    @property
    def serves_snapshot(self) -> bool:
        """Whether it serves although Kafka has not been read since the start."""
        return self._serves_snapshot and self.is_stale

    @property
    def unready(self) -> str:
        """Why this process must not serve yet; empty where it may."""
        if self._synced.is_set() or self._serves_snapshot:
            return ""
        if self._has_given_up:
            return "Kafka could not be reached at the start and there is no snapshot of the routes"
        doing = "reading the routes from Kafka" if self.has_joined else "joining through Kafka"
        return f"{doing}: {self._trouble}" if self._trouble else doing

    async def start(self) -> None:
        self._owed_since = asyncio.get_running_loop().time()
        await self._task.start()
        try:
            await self._synced_or_unreachable()
        except BaseException:
            await self.stop()
            raise
        if self.is_stale:
            self._has_given_up, self._serves_snapshot = True, bool(self._progress())
            log.warning("serving from the snapshot", action="routes_stale", boot_id=self._boot_id)

    async def _synced_or_unreachable(self) -> None:
        loop = asyncio.get_running_loop()
        while self.is_stale:
            away_s = 0.0 if self._owed_since is None else loop.time() - self._owed_since
            if away_s >= self._unreachable_s:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._synced.wait(), self._unreachable_s - away_s)

    async def stop(self) -> None:
        """After the last answer: say that this process has left."""
        await self._task.stop()
        if not self._joined.is_set():
            return
        try:
            await asyncio.wait_for(self._send(GatewayLeft(boot_id=self._boot_id)), LEAVE_S)
        except (TimeoutError, Unavailable) as error:
            log.warning("could not say that it leaves", action="leave_failed", reason=str(error))

    async def _run(self) -> None:
        await self._insist(self._join)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._insist(self._catch_up))
            group.create_task(self._beat())

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            beat = GatewayHeartbeat(
                boot_id=self._boot_id, endpoints=dict(self._progress()), in_flight=self._in_flight()
            )
            try:
                await self._send(beat)
            except PhantomError as error:
                self.failed += 1
                log.warning("heartbeat failed", action="heartbeat_failed", reason=str(error))
            await asyncio.sleep(max(0.0, started + self._heartbeat_s - loop.time()))

    async def _join(self) -> None:
        if self._prepare is not None:
            await self._prepare()
        await self._send(GatewayJoined(boot_id=self._boot_id, host=socket.gethostname(), pid=os.getpid()))
        self._joined.set()
        log.info("joined", action="gateway_joined", boot_id=self._boot_id)

    async def _catch_up(self) -> None:
        for projection in self._projections:
            await projection.caught_up()
        self._synced.set()

    async def _insist(self, act: Callable[[], Awaitable[None]]) -> None:
        """Until it works: Kafka may be away for long."""
        while True:
            try:
                await act()
                self._trouble = ""
                return
            except Unavailable as error:
                self._trouble = str(error)
                log.warning("waiting for Kafka", action="acks_wait", reason=str(error))
                await asyncio.sleep(0.2)

    async def _send(self, event: Event) -> None:
        envelope = cloudevents.Envelope(
            id=ids.new_id(), source=SOURCE, type=event.type, time=self._clock.now(), traceparent=None
        )
        headers = cloudevents.encode(envelope)
        if self._owed_since is None:
            self._owed_since = asyncio.get_running_loop().time()
        await self._producer.send(
            ROUTE_ACKS.name, self._boot_id.encode(), event.model_dump_json().encode(), headers
        )
        self._owed_since = None
        self.sent += 1
