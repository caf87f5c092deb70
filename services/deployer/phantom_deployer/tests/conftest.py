from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from phantom.deployer.v1 import deployer_service_pb2 as pb
from phantom_contracts import topics
from phantom_deployer.store import MIGRATIONS, SCHEMA
from phantom_deployer.tests.gateways import SimulatedGateway
from phantom_deployer.tests.harness import Deployer
from phantom_deployer.tests.whole import FAKE, Control, MakeControl, Peers
from phantom_platform.clock import SystemClock
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.postgres import Database
from phantom_platform.service import ServiceContext
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.identity import Issuer
from phantom_platform.testing.rpc import serving


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    """The deployer's tables on a real Postgres."""
    made = Database(
        postgres_dsn, SCHEMA, migrations=MIGRATIONS, clock=FakeClock(), source="phantom/deployer", max_size=12
    )
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def deployer(database: Database) -> Deployer:
    """A deployer with a workspace of its own, an environment, and one gateway."""
    made = Deployer(database, database.clock)  # type: ignore[arg-type]
    await made.environment()
    made.gateways.join("g1")
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def producer(kafka_bootstrap: str) -> AsyncIterator[Producer]:
    await ensure_topics(kafka_bootstrap, topics.CATALOGUE)
    made = Producer(kafka_bootstrap, client_id="test-deployer")
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def make_control(
    kafka_bootstrap: str, postgres_dsn: str, producer: Producer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[MakeControl]:
    issuer = Issuer()
    peers = Peers(issuer)
    made: list[Control] = []
    async with serving(*peers.servicers(), verifier=issuer.verifier) as others:

        async def make(module: str) -> Control:
            folder = tmp_path_factory.mktemp("data")
            (folder / "secrets").mkdir()
            (folder / "secrets" / "deployer.key").write_text("key")
            context = ServiceContext(
                kafka_bootstrap=kafka_bootstrap,
                postgres_dsn=postgres_dsn,
                control_address=others.address,
                data_dir=folder,
                clock=SystemClock(),
                registry=CollectorRegistry(),
                producer=producer,
                verifier=issuer.verifier,
            )
            control = Control(context, issuer, peers, module)
            made.append(control)
            await control.start()
            return control

        yield make
        for control in made:
            await control.stop()
            control.kill_everything()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def control(make_control: MakeControl) -> Control:
    made = await make_control(FAKE)
    await made.stub.CreateEnvironment(pb.CreateEnvironmentRequest(name="production", type="local"))
    return made


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(kafka_bootstrap: str, producer: Producer) -> AsyncIterator[SimulatedGateway]:
    made = await SimulatedGateway(kafka_bootstrap, producer).start()
    yield made
    await made.leave()
