"""A gateway with everything but doors and Kafka, over real frame streams."""

import asyncio
import random
from contextlib import asynccontextmanager

from phantom_inference_gateway.access import Access
from phantom_inference_gateway.domain.ejection import EjectionRule
from phantom_inference_gateway.ids import IdMint
from phantom_inference_gateway.metrics import GatewayMetrics
from phantom_inference_gateway.pool import Pool
from phantom_inference_gateway.routes import Routes
from phantom_inference_gateway.service import Gateway, Source
from phantom_inference_gateway.tests.fakes import FakeModelServer, Log
from phantom_inference_gateway.upstreams import StreamRule

KEY = "default/flights-prod"
RULE = StreamRule(
    ejection=EjectionRule(threshold=3, base_s=0.2, limit_s=1.0),
    open_timeout_s=1.0,
    silence_grace_s=0.05,
    backoff_base_s=0.02,
    backoff_limit_s=0.1,
)


class Setup:
    """A gateway with everything but doors and Kafka."""

    def __init__(self, rule, limits, access):
        seeded = random.Random(7)
        self.pool = Pool("boot", rule, seeded.random)
        self.routed = []
        self.routes = Routes(self.pool, self.routed.append)
        self.pool.on_draining = self.routes.drained_by
        self.log, self.metrics = Log(), GatewayMetrics()
        source = Source(IdMint(), seeded.randrange)
        access = access or Access(None, is_required=False)
        self.gateway = Gateway(self.routes, access, self.log, self.metrics, source, limits)
        self.servers = []

    async def server(self, replica_id, revision="f.1", behave=None):
        server = await FakeModelServer(replica_id, revision, behave).start()
        self.servers.append(server)
        return server

    async def serve(self, record):
        self.routes.route_changed(KEY, record, record.version)
        await self.routes.settled()


@asynccontextmanager
async def running(rule=RULE, limits=None, access=None):
    setup = Setup(rule, limits, access)
    await setup.pool.start()
    try:
        async with asyncio.timeout(20):
            yield setup
    finally:
        await setup.pool.stop()
        for server in setup.servers:
            server.answers.set()
            await server.kill()
