"""The stack that these tests kill, people on it, models, and endpoints of a test's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from faults.proxy import KafkaProxy
from faults.site import OwnGateway, Site, running_site
from faults.traffic import Books, Traffic
from harness import models
from harness.people import People, make_people
from harness.waiting import eventually
from phantom_ml_studio import Deployments, ModelRegistry, Monitoring
from phantom_ml_studio.values import Deployment, Replica

MODEL, OLD, NEW = "weather", "1.0.0", "1.1.0"


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A whole stack of our own."""
    with running_site(lambda: request.session.testsfailed > 0) as running:
        yield running


@dataclass(frozen=True)
class Bench:
    """What a test does besides harm."""

    site: Site
    people: People
    deployments: Deployments
    monitoring: Monitoring

    def books(self, endpoint: str) -> Books:
        """To be checked after the traffic."""
        return Books(lambda: self.site.stack.kafka, endpoint, self.deployments, self.monitoring)

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


@pytest.fixture(scope="session")
def shop(bench: Bench) -> Deployment:
    """The endpoint that most tests call: two replicas of 1.0.0, and two of 1.1.0 as candidate at 20 %."""
    return _serve(bench, f"shop-{secrets.token_hex(2)}", replicas=2, percent=20)


@pytest.fixture
def rollout(bench: Bench) -> Iterator[Deployment]:
    """An endpoint of the test's own: one replica of 1.0.0, and one of 1.1.0 as candidate at half of the traffic."""
    made = _serve(bench, f"rollout-{secrets.token_hex(2)}", replicas=1, percent=50)
    yield made
    # Before the next test looks at what runs.
    own = [each.replica_id for each in _replicas(bench.deployments.get(made.id))]
    bench.deployments.delete(made.id)
    eventually(lambda: not set(own) & set(bench.site.pids()), "the end of its model servers", 60)


def _serve(bench: Bench, name: str, *, replicas: int, percent: float) -> Deployment:
    deployments = bench.deployments
    deployments.deploy(MODEL, OLD, deployment_id=name, replicas=replicas)
    deployments.wait_ready(name)
    deployments.deploy(MODEL, NEW, deployment_id=name, canary_percent=percent)
    return deployments.wait_ready(name)


def _replicas(deployment: Deployment) -> list[Replica]:
    revisions = (deployment.stable, deployment.candidate, *deployment.withdrawing)
    return [replica for revision in revisions if revision is not None for replica in revision.replicas]


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
