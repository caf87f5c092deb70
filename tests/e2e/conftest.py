"""What end-to-end tests share: a door to the gateway, a command line, and a way to serve a model."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import models
from harness.cli import Shell
from harness.oip import Door
from harness.people import People
from harness.stack import Stack
from phantom_ml_studio import Deployments, ModelRegistry, Monitoring
from phantom_ml_studio.values import Deployment


@pytest.fixture(scope="session")
def door(stack: Stack) -> Iterator[Door]:
    """gRPC and REST of the gateway."""
    made = Door(stack)
    yield made
    made.close()


@pytest.fixture
def shell(stack: Stack, people: People, tmp_path: Path) -> Shell:
    """The engineer's command line, logged in."""
    return Shell(stack, tmp_path).log_in(people.engineer)


@dataclass(frozen=True)
class Studio:
    """What the engineer does with models."""

    registry: ModelRegistry
    deployments: Deployments
    monitoring: Monitoring
    stack: Stack
    folder: Path

    def serve(self, name: str, path: Path, *, schema: dict[str, Any] | None = None, **how: Any) -> Deployment:
        """Register 1.0.0 of a new model, deploy it and wait until it takes traffic."""
        self.registry.register_model(name, path, schema=schema or models.SCHEMA)
        made = self.deployments.deploy(name, **how)
        return self.deployments.wait_ready(made.id)

    def serve_boosters(self, name: str, **how: Any) -> Deployment:
        """A booster as 1.0.0, another one registered as 1.1.0."""
        made = self.serve(name, models.xgboost_file(self.file(f"{name}-1.json"), 1), **how)
        self.registry.create_version(name, "1.1.0", models.xgboost_file(self.file(f"{name}-2.json"), 2))
        return made

    def add_candidate(self, name: str, version: str = "1.1.0", **how: Any) -> Deployment:
        """A ready candidate."""
        return self.deployments.wait_ready(self.deployments.deploy(name, version, **how).id)

    def artifact(self, digest: str) -> Path:
        """The stored bytes of a digest."""
        return self.stack.artifact(digest)

    def file(self, name: str) -> Path:
        """A place for a file."""
        return self.folder / name


@pytest.fixture(scope="session")
def studio(stack: Stack, people: People, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The engineer's."""
    client = people.engineer.client
    folder = tmp_path_factory.mktemp("studio")
    return Studio(ModelRegistry(client), Deployments(client), Monitoring(client), stack, folder)


@pytest.fixture(scope="session")
def run_id() -> str:
    """Makes names of this session its own."""
    return secrets.token_hex(3)


@pytest.fixture(scope="session")
def shop(studio: Studio, run_id: str) -> Deployment:
    """An endpoint that tests only read: a booster with two columns, all numeric."""
    return studio.serve(f"shop-{run_id}", models.xgboost_file(studio.file("shop.ubj")))


@pytest.fixture(scope="session")
def mixed(studio: Studio, run_id: str) -> Deployment:
    """An endpoint that tests only read: a number that must be there, and a category."""
    path = models.mixed_file(studio.file("mixed.ubj"))
    return studio.serve(f"mixed-{run_id}", path, schema=models.MIXED_SCHEMA)
