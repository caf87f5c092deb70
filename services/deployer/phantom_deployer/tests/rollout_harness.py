"""A deployer whose rollouts are taken on as well, on a real Postgres: the pilot can be killed, and time is ours."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from phantom_contracts import topics
from phantom_contracts.events.base import Event
from phantom_contracts.events.monitor import Agreement, WindowPublished
from phantom_deployer.bell import Bell
from phantom_deployer.domain.rollouts.model import Rollout, Transition
from phantom_deployer.domain.rollouts.spec import CanaryPlan, RolloutSpec, SuccessCriteria
from phantom_deployer.domain.values import Call, RolloutKey, RolloutOrder
from phantom_deployer.metrics import Metrics
from phantom_deployer.pilot import Pilot
from phantom_deployer.service import Evidences, Piloting, Rollouts
from phantom_deployer.tests.hand_monitor import LENGTH, HandMonitor, Traffic
from phantom_deployer.tests.harness import Deployer, Killed, SabotagedStore, Saboteur, announced
from phantom_deployer.window_consumer import on_window_published, on_windows_closed
from phantom_platform.ids import new_id
from phantom_platform.kafka.router import Received
from phantom_platform.postgres import Database
from phantom_platform.testing.clock import FakeClock

ENDPOINT = "fraud-prod"
INTERVAL_S = 10


def canary(*shares: float, **changes: Any) -> RolloutSpec:
    """Steps of 10 s at equally spaced shares, from the first to the last of `shares` (default 10, 55, 100)."""
    first, last, increment = (shares[0], shares[-1], shares[1] - shares[0]) if shares else (10, 100, 45)
    plan = CanaryPlan(first, last, increment, interval_s=INTERVAL_S)
    fields = {"criteria": SuccessCriteria(minimum_requests=100), "rollback_window_s": float(INTERVAL_S)}
    return RolloutSpec("canary", canary=plan, **(fields | changes))


class DirectMonitor(HandMonitor):
    """Hands its events to the consumer's handlers, each in a transaction, as Kafka's would be."""

    def __init__(self, database: Database, endpoint: str, workspace: str) -> None:
        self._database = database
        self.endpoint = endpoint
        self.workspace = workspace

    async def _publish(self, event: Event) -> None:
        received: Received[Any] = Received(
            event=event,
            id=new_id(),
            source="phantom/monitor",
            type=event.type,
            time=datetime.now(UTC),
            key=f"{self.workspace}/{self.endpoint}",
            topic=topics.WINDOWS.name,
            partition=0,
            offset=0,
            aggregate_version=None,
            traceparent=None,
        )
        handler: Any = on_window_published if isinstance(event, WindowPublished) else on_windows_closed
        async with self._database.transaction() as tx:
            await handler(tx, received)


class RolloutDeployer(Deployer):
    """`candidate` and `stable`: what their traffic is like; a silent monitor says nothing at all."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        super().__init__(database, clock)
        self.candidate: Traffic | None = Traffic(error_rate=0.01)
        self.stable: Traffic | None = Traffic(error_rate=0.01)
        self.is_monitor_silent = False
        self._published: datetime | None = None
        self.monitor = DirectMonitor(database, ENDPOINT, self.workspace)
        self.restart_pilot()

    @classmethod
    async def serving(cls, database: Database) -> RolloutDeployer:
        """Version 1.0.0 serves. At a full minute, so that equal stories have equal windows."""
        clock: Any = database.clock
        clock.advance(-clock.now().timestamp() % 60)
        made = cls(database, clock)
        await made.environment()
        made.gateways.join("g1")
        await made.deploy()
        await made.settle(3)
        return made

    def restart_pilot(self, saboteur: Saboteur | None = None) -> None:
        """A new process on the same state, as far as rollouts go."""
        self.pilot_saboteur = saboteur or Saboteur()
        store = SabotagedStore(self.database, self.pilot_saboteur)
        self.evidences = Evidences(store.reads, self.clock)
        piloting = Piloting(store, self.experiments, self.acks, self.evidences)
        self.registry = CollectorRegistry()
        self.piloting = piloting
        self.pilot = Pilot(
            piloting, store, self.clock, Metrics(self.registry), Bell(), lambda workspace, deployment_id: None
        )
        self.rollouts = Rollouts(
            store,
            self.models,
            self.experiments,
            self.acks,
            self.clock,
            wake=lambda workspace, deployment_id: None,
            mint=new_id,
            entropy=lambda: secrets.token_hex(4),
        )

    # -- what callers do ---------------------------------------------------------------------------------------------

    def by(self, principal: str, request_id: str = "") -> Call:
        return Call(self.workspace, principal, request_id, "f")

    async def create(
        self, spec: RolloutSpec | None = None, version: str = "1.1.0", request_id: str = "", **order: Any
    ) -> Rollout:
        asked = RolloutOrder("fraud", "production", spec or canary(), version, **order)
        answer = await self.rollouts.create(self.by("ann", request_id), asked)
        return await self.rollout(answer.rollout_id)

    async def rollout(self, name: str = ENDPOINT) -> Rollout:
        """That one, or the newest."""
        return await self.rollouts.get(self.workspace, name)

    async def transitions(self, name: str = ENDPOINT) -> list[Transition]:
        return await self.rollouts.transitions(await self.rollout(name))

    # -- what goes on ------------------------------------------------------------------------------------------------

    async def round(self, seconds: float = 5.0) -> None:
        """Replicas, gateways, the monitor and the pilot have their turn; then time passes."""
        await self.reconciler.pass_once(self.workspace, ENDPOINT)
        await self.gateways.follow()
        self.machine.exit_drained()
        await self.publish_windows()
        await self.look()
        self.clock.advance(seconds)

    async def look(self) -> None:
        for key in await self.live():
            await self.pilot.look(key)

    async def live(self) -> list[RolloutKey]:
        """Of this workspace."""
        return [each for each in await self.piloting.live() if each.workspace == self.workspace]

    async def until(
        self, condition: Callable[[Rollout], bool], rounds: int = 40, name: str = ENDPOINT
    ) -> Rollout:
        for _ in range(rounds):
            found = await self.rollout(name)
            if condition(found):
                return found
            await self.round()
        moves = [f"{m.to_state} {m.reason_code}: {m.reason}" for m in await self.transitions(name)]
        raise AssertionError("\n".join([f"not in {rounds} rounds: {await self.rollout(name)}", *moves]))

    async def until_state(self, state: str, rounds: int = 40, name: str = ENDPOINT) -> Rollout:
        return await self.until(lambda each: each.state == state, rounds, name)

    async def until_step(self, step: int) -> Rollout:
        """Its clock runs."""
        return await self.until(lambda each: each.step == step and each.step_ends_at is not None)

    async def publish_windows(self) -> None:
        """Those that ended since the last time, as the present route has it."""
        now = self.clock.now()
        known = now - timedelta(seconds=now.timestamp() % LENGTH.total_seconds())
        start = self._published or known
        self._published = known
        if self.is_monitor_silent:
            return
        deployment = await self.get()
        while start < known:
            place: dict[str, Any] = {"route_version": deployment.route_version, "start": start}
            if self.candidate and deployment.candidate_bp:
                await self.monitor.window(
                    self.candidate, revision=deployment.candidate, arm="candidate", **place
                )
            if self.candidate and deployment.shadow:
                agreed = Agreement(compared=self.candidate.requests, agreed=self.candidate.requests)
                copies = {"decision": "shadow", "agreement": agreed}
                await self.monitor.window(
                    self.candidate, revision=deployment.shadow.revision, arm="shadow", **place, **copies
                )
            if self.stable and deployment.candidate_bp < 10_000:
                await self.monitor.window(self.stable, revision=deployment.stable, arm="control", **place)
            start += LENGTH
        await self.monitor.closed(known)

    async def surviving(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """As someone does it who repeats what a killed deployer did not answer."""
        while True:
            try:
                return await work()
            except Killed:
                self.restart_pilot()

    async def story(self) -> list[tuple[str, str, int, int]]:
        """(state, reason code, step, share) of each transition of the newest rollout."""
        return [(m.to_state, m.reason_code, m.step, m.bp) for m in await self.transitions()]

    async def announced_story(self) -> list[tuple[str, str, int, int]]:
        """The same, as it was announced; of every rollout of the endpoint."""
        return [
            (
                str(e["to_state"]),
                str(e["reason_code"]),
                int(str(e["step"])),
                round(float(str(e["percent"])) * 100),
            )
            for e in await announced(self)
            if e["_type"] == "RolloutTransitioned"
        ]
