"""Small things that tests are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from phantom_contracts.schema import Feature, ModelSchema
from phantom_deployer.domain import rollout
from phantom_deployer.domain.acknowledgement import Waiting
from phantom_deployer.domain.deployment import Deployment, ModelVersion, Replica
from phantom_deployer.domain.reconcile import Observation, Policy, Step, Surroundings, step

START = datetime(2026, 1, 1, tzinfo=UTC)


def schema(
    *required: str, optional: tuple[str, ...] = (), labels: tuple[str, ...] = ("no", "yes")
) -> ModelSchema:
    features = [Feature(name=name) for name in required or ("a", "b")]
    features += [Feature(name=name, required=False) for name in optional]
    return ModelSchema(features=tuple(features), class_labels=labels)


def model(
    version: str = "1.0.0", model_schema: ModelSchema | None = None, model_id: str = "fraud"
) -> ModelVersion:
    digest = f"sha256:{abs(hash((model_id, version))):064x}"[:71]
    return ModelVersion(model_id, version, digest, "model.json", "xgboost", 1000, model_schema or schema())


def created(replicas: int = 1, **changes: object) -> Deployment:
    deployment, _ = rollout.create(
        workspace="default",
        deployment_id="fraud-prod",
        environment="production",
        model=model(),
        replicas=replicas,
        hash_field="user_id",
        aliases=("fraud",),
        now=START,
        created_by="ann",
        entropy="s0",
    )
    return replace(deployment, **changes)  # type: ignore[arg-type]


def mint() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"id{next(numbers):06d}"


class World:
    """A deployment, the processes it has and what gateways have acknowledged, stepped by hand."""

    def __init__(self, deployment: Deployment, policy: Policy | None = None) -> None:
        self.deployment = deployment
        self.policy = policy or Policy()
        self.now = START
        self.observations: dict[str, Observation] = {}
        self.acknowledged = True
        self.used: Mapping[str, str] | None = {}
        self.mint = mint()
        self.facts: list[object] = []

    def step(self) -> Step:
        around = Surroundings(self.now, self.observations, self._waiting, self.used)
        done = step(self.deployment, around, self.mint, self.policy)
        self.deployment = done.deployment
        self.facts.extend(done.facts)
        return done

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def _waiting(self, route: str, version: int) -> Waiting | None:
        return None if self.acknowledged else Waiting(f"waiting for {route} {version}")

    def runs(self, replica: Replica, *, port: int = 1, **changes: object) -> None:
        """The replica's process serves."""
        seen = Observation(
            replica.launch_id, is_running=True, is_agreeing=True, address=f"127.0.0.1:{port}", pid=port
        )
        self.observations[replica.id] = replace(seen, **changes)  # type: ignore[arg-type]

    def died(self, replica: Replica, **changes: object) -> None:
        seen = Observation(replica.launch_id, is_running=False, is_child_alive=False)
        self.observations[replica.id] = replace(seen, **changes)  # type: ignore[arg-type]

    def replica(self, index: int = 0) -> Replica:
        return self.deployment.processes[index]

    def until_ready(self) -> None:
        """Everything that is wanted runs."""
        self.step()
        for port, replica in enumerate(self.deployment.processes, 1):
            if not replica.is_leaving:
                self.runs(replica, port=port)
        self.step()
