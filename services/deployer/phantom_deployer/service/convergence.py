"""The use cases of the reconciler: one step of one deployment, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from phantom_deployer.domain.deployment import Deployment, Replica
from phantom_deployer.domain.reconcile import Effect, Observation, Policy, Surroundings, step
from phantom_deployer.domain.values import DEPLOYER
from phantom_deployer.service.announcements import commit, repeat_lost
from phantom_deployer.service.ports import Acknowledged, Experiments, Store, Work
from phantom_platform.telemetry import logs

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """An effect to carry out, with the route record that a drain carries."""

    effect: Effect
    record_json: str = ""


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step led to. `is_changed`: another one may have more to do at once."""

    deployment: Deployment
    tasks: tuple[Task, ...]
    is_changed: bool


class Convergence:
    """Drives deployments towards what is wanted of them."""

    def __init__(
        self,
        store: Store,
        experiments: Experiments,
        acks: Acknowledged,
        *,
        mint: Callable[[], str],
        has_read_routes: Callable[[], bool],
        policy: Policy | None = None,
    ) -> None:
        self._store = store
        self._experiments = experiments
        self._acks = acks
        self._mint = mint
        self._has_read_routes = has_read_routes
        self._policy = policy or Policy()

    async def keys(self) -> list[tuple[str, str]]:
        """(workspace, id) of every deployment that is not gone."""
        return await self._store.reads.keys()

    async def replica_ids(self) -> frozenset[str]:
        return await self._store.reads.replica_ids()

    async def look_up(self, workspace: str, deployment_id: str) -> Deployment | None:
        return await self._store.reads.deployment(workspace, deployment_id)

    async def advance(
        self, workspace: str, deployment_id: str, observations: Mapping[str, Observation]
    ) -> Advance | None:
        """One step; None where the deployment is gone. Effects are carried out after it has committed."""
        async with self._store.transaction() as work:
            before = await work.lock(workspace, deployment_id)
            if before is None or before.is_deleted:
                return None
            around = Surroundings(
                now=work.now,
                observations=observations,
                waiting=self._acks.waiting,
                used=self._experiments.used(workspace),
            )
            done = step(before, around, self._mint, self._policy)
            after = await commit(
                work, before, done.deployment, done.facts, actor=DEPLOYER, experiments=self._experiments
            )
            if self._has_read_routes() and await repeat_lost(work, after, self._acks.confirmed(after.key)):
                log.error(
                    "Kafka has lost a route",
                    action="route_lost",
                    route=after.key,
                    version=after.route_version,
                )
            tasks = [Task(each, await _record(work, after, each)) for each in done.effects]
        return Advance(after, tuple(tasks), after != before)

    async def forget_answers(self, age: timedelta) -> None:
        async with self._store.transaction() as work:
            await work.forget_answers(work.now - age)


async def _record(work: Work, deployment: Deployment, effect: Effect) -> str:
    """The newest record of the route that the replica left; its own deployment's where it was in several."""
    if effect.kind != "drain" or not effect.replica.departures:
        return ""
    workspace, endpoint = _left(deployment, effect.replica).split("/", 1)
    found = await work.route(workspace, endpoint, 0)
    return (found.record_json or "") if found else ""


def _left(deployment: Deployment, replica: Replica) -> str:
    keys = [key for key, _ in replica.departures]
    return deployment.key if deployment.key in keys else keys[0]
