"""A governance service as it runs, on a real Postgres and a real Kafka, with cheap passwords."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom_governance.app import build
from phantom_governance.passwords import Passwords
from phantom_governance.settings import GovernanceSettings
from phantom_platform import rpc
from phantom_platform.clock import SystemClock
from phantom_platform.identity.feed import key_projection
from phantom_platform.identity.keys import KeySet
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.kafka import Producer
from phantom_platform.lifecycle import Application
from phantom_platform.service import ServiceContext
from phantom_platform.testing.identity import FixedToken

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@dataclass
class Running:
    """A process with governance in it, and a way to call it."""

    app: Application
    context: ServiceContext
    address: str
    _admin: str = ""

    def channel(self, token: str | None = None) -> grpc.aio.Channel:
        return rpc.control_channel(self.address, FixedToken(token) if token else None)

    async def login(self, username: str, password: str) -> pb.Token:
        with rpc.translated():
            async with self.channel() as channel:
                request = pb.LoginRequest(username=username, password=password)
                return (await stubs.GovernanceServiceStub(channel).Login(request, timeout=20)).token

    async def admin(self) -> str:
        """The administrator's token, by the password in the file; one a module."""
        if not self._admin:
            password = (self.context.secrets_dir / "admin-password").read_text().strip()
            self._admin = (await self.login("admin", password)).value
        return self._admin


def assemble(
    kafka: str, dsn: str, data_dir: Path, keys: KeySet | None = None
) -> tuple[Application, ServiceContext]:
    """What `standalone` does, with given addresses and cheap passwords."""
    app, clock = Application("test"), SystemClock()
    keys = KeySet() if keys is None else keys
    context = ServiceContext(
        kafka_bootstrap=kafka,
        postgres_dsn=dsn,
        control_address="",
        data_dir=data_dir,
        clock=clock,
        registry=CollectorRegistry(),
        producer=app.add(Producer(kafka, client_id="test-governance")),
        verifier=TokenVerifier(keys, clock),
    )
    app.add(key_projection(keys, kafka, None))
    app.merge(build(context, GovernanceSettings(), passwords=Passwords(CHEAP)))
    return app, context
