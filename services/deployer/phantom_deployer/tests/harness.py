"""A deployer on a real Postgres whose processes, gateways and Kafka are in memory, so that all of it can be killed."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

from prometheus_client import CollectorRegistry

from phantom_contracts.events.deployer import RouteRecord
from phantom_deployer.bell import Bell
from phantom_deployer.domain.acknowledgement import Acknowledgements, Progress
from phantom_deployer.domain.deployment import Deployment, ModelVersion, Replica
from phantom_deployer.domain.reconcile import Observation
from phantom_deployer.domain.values import Call, Order
from phantom_deployer.metrics import Metrics
from phantom_deployer.reconciler import Reconciler
from phantom_deployer.service import Convergence, Deployments, Queries
from phantom_deployer.store import PostgresDeployments
from phantom_deployer.tests.builders import model
from phantom_platform.errors import NotFound
from phantom_platform.ids import new_id
from phantom_platform.outgoing import unpack_headers
from phantom_platform.postgres import Database
from phantom_platform.testing.clock import FakeClock


class Killed(BaseException):
    """kill -9, at a step."""


class Saboteur:
    """Kills at the step with that number, once."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            raise Killed


@dataclass
class Process:
    launch_id: str
    revision: str
    is_draining: bool = False


@dataclass
class Machine:
    """Processes, which outlive the deployer. `broken`: model versions that cannot be loaded → (code, permanent)."""

    processes: dict[str, Process] = field(default_factory=dict)
    drains: list[tuple[str, str]] = field(default_factory=list)
    launches: int = 0
    broken: dict[str, tuple[str, bool]] = field(default_factory=dict)
    failures: dict[str, tuple[str, bool]] = field(default_factory=dict)
    on_drain: Callable[[str, str], None] = lambda replica_id, revision: None

    def exit_drained(self) -> None:
        for replica_id in [each for each, process in self.processes.items() if process.is_draining]:
            del self.processes[replica_id]


class MemoryBackend:
    """What one life of the deployer knows of the machine."""

    def __init__(self, machine: Machine, saboteur: Saboteur) -> None:
        self._machine = machine
        self._saboteur = saboteur
        self._children: dict[str, str] = {}

    async def observe(self, deployment: Deployment) -> dict[str, Observation]:
        self._saboteur.step()
        return {each.id: self._look(each) for each in deployment.processes if each.launch_id}

    def _look(self, replica: Replica) -> Observation:
        process = self._machine.processes.get(replica.id)
        is_child = self._children.get(replica.id) == replica.launch_id
        code, permanent = self._machine.failures.get(replica.launch_id, ("", False))
        return Observation(
            replica.launch_id,
            is_running=process is not None,
            is_child_alive=(process is not None) if is_child else None,
            is_agreeing=process is not None,
            is_draining=process is not None and process.is_draining,
            address=f"{replica.id}:{process.launch_id}" if process else "",
            error_code=code,
            error_message=code,
            is_permanent=permanent,
        )

    async def launch(self, deployment: Deployment, replica: Replica) -> None:
        self._saboteur.step()
        revision = deployment.revision(replica.revision)
        assert revision is not None
        self._children[replica.id] = replica.launch_id
        self._machine.launches += 1
        broken = self._machine.broken.get(revision.model.version)
        if broken:
            self._machine.failures[replica.launch_id] = broken
        elif replica.id not in self._machine.processes:  # the lock: a second process ends
            self._machine.processes[replica.id] = Process(replica.launch_id, replica.revision)
        self._saboteur.step()

    async def drain(self, replica: Replica, record_json: str) -> None:
        self._saboteur.step()
        self._machine.on_drain(replica.id, replica.revision)
        self._machine.drains.append((replica.id, record_json))
        self._machine.processes[replica.id].is_draining = True
        self._saboteur.step()

    def signal(self, replica_id: str, number: Signals) -> None:
        self._machine.processes.pop(replica_id, None)

    async def forget(self, replica_id: str) -> None:
        self._saboteur.step()

    def present(self) -> list[str]:
        return sorted(self._machine.processes)

    async def dismiss(self, replica_id: str) -> None:
        self._machine.processes.pop(replica_id, None)


class SabotagedStore(PostgresDeployments):
    """Dies before or after a commit."""

    def __init__(self, database: Database, saboteur: Saboteur) -> None:
        super().__init__(database)
        self._saboteur = saboteur

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with super().transaction() as work:
            yield work
            self._saboteur.step()
        self._saboteur.step()


class MemoryModels:
    """The registry."""

    def __init__(self) -> None:
        self.versions: dict[str, ModelVersion] = {}
        self.asked = 0

    async def version(self, workspace: str, model_id: str, version: str) -> ModelVersion:
        self.asked += 1
        if version not in self.versions:
            raise NotFound(f"no version {version}", code="version_not_found")
        return self.versions[version]


class MemoryExperiments:
    def __init__(self) -> None:
        self.uses: Mapping[str, str] | None = {}
        self.routed: dict[str, tuple[str, ...]] = {}
        # Endpoint's key → experiments.
        self.run: dict[str, tuple[str, ...]] = {}

    def used(self, workspace: str) -> Mapping[str, str] | None:
        return self.uses

    def running(self, key: str) -> tuple[str, ...] | None:
        return None if self.uses is None else self.run.get(key, ())

    def arms(self, key: str) -> tuple[str, ...] | None:
        return None if self.uses is None else self.routed.get(key, ())


class Gateways:
    """Gateways that follow Kafka at once, unless they are held back. They check what is drained behind their backs."""

    def __init__(self, deployer: Deployer) -> None:
        self._deployer = deployer
        # boot id → endpoint → drained version
        self.drained: dict[str, dict[str, int]] = {}
        self.held: set[str] = set()

    def join(self, boot_id: str) -> None:
        self.drained[boot_id] = {}
        self._deployer.acks.join(boot_id)

    async def follow(self) -> None:
        """Kafka gets what is committed; gateways that are not held apply, drain and report it."""
        acks, clock = self._deployer.acks, self._deployer.clock
        rows = await self._deployer.database.fetch(
            "SELECT endpoint, max(version) AS version FROM routes WHERE workspace = $1 GROUP BY endpoint",
            self._deployer.workspace,
        )
        newest = {f"{self._deployer.workspace}/{each['endpoint']}": each["version"] for each in rows}
        for key, version in newest.items():
            acks.confirm(key, version, clock.monotonic())
        clock.advance(0.5)
        for boot_id, drained in self.drained.items():
            if boot_id not in self.held:
                drained.update(newest)
            acks.heartbeat(boot_id, {key: Progress(each, each) for key, each in drained.items()})
        acks.at_end(clock.monotonic())


class Deployer:
    """One workspace of its own on a shared database. `restart` is a new process on the same state."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database = database
        self.clock = clock
        self.workspace = f"w-{secrets.token_hex(6)}"
        self.machine = Machine()
        self.models = MemoryModels()
        self.experiments = MemoryExperiments()
        self.acks = Acknowledgements()
        self.gateways = Gateways(self)
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            self.models.versions[version] = model(version)
        self.restart()

    def restart(self, saboteur: Saboteur | None = None) -> None:
        self.saboteur = saboteur or Saboteur()
        self.store = SabotagedStore(self.database, self.saboteur)
        self.backend = MemoryBackend(self.machine, self.saboteur)
        self.bell = Bell()
        convergence = Convergence(
            self.store, self.experiments, self.acks, mint=new_id, has_read_routes=lambda: True
        )
        self.reconciler = Reconciler(
            convergence, self.backend, self.store, self.clock, Metrics(CollectorRegistry()), self.bell
        )
        calm = PostgresDeployments(self.database)
        self.deployments = Deployments(
            calm,
            self.models,
            self.experiments,
            wake=self.reconciler.wake,
            entropy=lambda: secrets.token_hex(4),
        )
        self.queries = Queries(calm, self.acks, self.clock, self.bell.heard)

    def call(self, request_id: str = "", fingerprint: str = "f") -> Call:
        return Call(self.workspace, "ann", request_id, fingerprint)

    async def environment(self) -> None:
        await self.deployments.create_environment(self.call(), "production", "local")

    async def deploy(self, version: str = "1.0.0", **changes: Any) -> str:
        answer = await self.deployments.deploy(self.call(), Order("fraud", "production", version, **changes))
        return answer.revision

    async def get(self, name: str = "fraud-prod") -> Deployment:
        return await self.queries.deployment(self.workspace, name)

    async def settle(self, rounds: int = 12, deployment_id: str = "fraud-prod") -> None:
        """Passes, with everybody else well."""
        for _ in range(rounds):
            await self.reconciler.pass_once(self.workspace, deployment_id)
            await self.gateways.follow()
            self.machine.exit_drained()
            self.clock.advance(1.0)

    async def route(self, name: str = "fraud-prod") -> RouteRecord:
        found, _ = await self.queries.route(self.workspace, name, 0)
        return RouteRecord.model_validate_json(found.record_json or "")


async def announced(deployer: Deployer) -> list[dict[str, object]]:
    """Events of this workspace in order, each with its `_type` and `_version`."""
    rows = await deployer.database.fetch(
        "SELECT value, headers FROM outbox WHERE topic = 'phantom.deployer.events.v1' ORDER BY id"
    )
    found = []
    for row in rows:
        event, headers = json.loads(row["value"]), dict(unpack_headers(row["headers"]))
        if event["workspace"] == deployer.workspace:
            event["_type"] = headers["ce_type"].decode().split(".")[2]
            event["_version"] = int(headers["ce_aggregateversion"])
            found.append(event)
    return found
