"""The stack that these tests kill, people on it, models, and endpoints of a test's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from faults.proxy import KafkaProxy
from faults.site import OwnGateway, Site
from faults.traffic import Books, Traffic
from harness import models
from harness.people import People, make_people
from harness.stack import running_stack
from phantom_ml_studio import Deployments, ModelRegistry, Monitoring
from phantom_ml_studio.values import Deployment

MODEL, OLD, NEW = "weather", "1.0.0", "1.1.0"


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A whole stack of our own, never one that was given: what else runs there is not ours to kill."""
    patch = pytest.MonkeyPatch()
    patch.delenv("PHANTOM_TEST_STACK", raising=False)
    try:
        with running_stack(lambda: request.session.testsfailed > 0) as stack:
            made = Site(stack.data_dir)
            yield made
    finally:
        patch.undo()
    left = [process for process in psutil.process_iter() if _belongs_to(process, made.data_dir)]
    assert not left, f"left behind: {left}"


def _belongs_to(process: psutil.Process, data_dir: Path) -> bool:
    try:
        return str(data_dir) in " ".join(process.cmdline())
    except psutil.Error:
        return False


@dataclass(frozen=True)
class Bench:
    """What a test does besides harm."""

    site: Site
    people: People
    deployments: Deployments
    monitoring: Monitoring

    def books(self, endpoint: str) -> Books:
        """To be checked after the traffic."""
        return Books(self.site.stack.kafka, endpoint, self.deployments, self.monitoring)

    def traffic(self, endpoint: str, gateway: str = "", per_second: float = 150.0) -> Traffic:
        """Calls at the stack's own gateway, or another."""
        return Traffic(gateway or self.site.stack.grpc, endpoint, per_second=per_second)


@pytest.fixture(scope="session")
def bench(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Two versions of one model are registered."""
    people = make_people(site.stack)
    client = people.engineer.client
    registry, folder = ModelRegistry(client), tmp_path_factory.mktemp("models")
    registry.register_model(MODEL, models.xgboost_file(folder / "1.ubj", 1), schema=models.SCHEMA)
    registry.create_version(MODEL, NEW, models.xgboost_file(folder / "2.ubj", 2))
    yield Bench(site, people, Deployments(client), Monitoring(client))
    people.close()


Serve = Callable[..., Deployment]


@pytest.fixture(scope="session")
def shop(bench: Bench) -> Deployment:
    """The endpoint that most tests call: two replicas of 1.0.0, and two of 1.1.0 as candidate at 20 %."""
    return _serve(bench, f"shop-{secrets.token_hex(2)}", replicas=2, percent=20)


@pytest.fixture
def rollout(bench: Bench) -> Iterator[Deployment]:
    """An endpoint of the test's own: one replica of 1.0.0, and one of 1.1.0 as candidate at half of the traffic."""
    made = _serve(bench, f"rollout-{secrets.token_hex(2)}", replicas=1, percent=50)
    yield made
    bench.deployments.delete(made.id)


def _serve(bench: Bench, name: str, *, replicas: int, percent: float) -> Deployment:
    deployments = bench.deployments
    deployments.deploy(MODEL, OLD, deployment_id=name, replicas=replicas)
    deployments.wait_ready(name)
    deployments.deploy(MODEL, NEW, deployment_id=name, canary_percent=percent)
    return deployments.wait_ready(name)


@pytest.fixture
def proxy(site: Site) -> Iterator[KafkaProxy]:
    """A way to Kafka that can be shut."""
    with KafkaProxy(site.stack.kafka) as made:
        yield made


@pytest.fixture
def own_gateway(site: Site) -> Iterator[Callable[[str], OwnGateway]]:
    """Makes gateways that `up` does not know, given where Kafka is; removes them all."""
    made: list[OwnGateway] = []

    def make(kafka: str) -> OwnGateway:
        made.append(OwnGateway(site, len(made), kafka))
        return made[-1]

    yield make
    for each in made:
        each.remove()
