"""What a process gives to each service that runs in it, and the form of every service's `app.py`.

One service's composition root is one function, and it makes neither the gRPC server nor the Kafka producer:

    # services/<x>/phantom_<x>/app.py
    def build(context: ServiceContext, settings: XSettings) -> Application:
        app = Application("registry")
        database = app.add(Database(context.postgres_dsn, "registry", migrations=MIGRATIONS,
                                    clock=context.clock, source="phantom/registry"))
        app.add(OutboxRelay(database, context.producer, registry=context.registry))
        service = Registry(PostgresRegistry(database), context.clock, …)
        routes = router(service)
        app.add(Consumers(routes, database, context.kafka_bootstrap, context.clock, registry=context.registry))
        context.dead_letters.append(DeadLetters(routes, database, context.clock))
        app.servicers.append(rpc.servicer(add_RegistryServiceServicer_to_server, RegistryRpc(service),
                                          "phantom.registry.v1.RegistryService",
                                          audit=rpc.DatabaseAuditSink(database)))
        app.readiness["outbox"] = lambda: Readiness(ok=…, reason="…")
        return app

    # services/<x>/phantom_<x>/__main__.py
    if __name__ == "__main__":
        lifecycle.run(lambda: standalone("registry", lambda context: build(context, RegistrySettings())))

    # several services in one process, on one gRPC server
    lifecycle.run(lambda: standalone("control",
        lambda context: governance.build(context, GovernanceSettings()),
        lambda context: registry.build(context, RegistrySettings())))

`phantom_platform.standalone.standalone` makes the context from the environment, starts what is shared (topics,
producer, token keys), then the services' parts in the order given, then the gRPC server with all servicers
(and one DeadLetterService for every service with `dead_letters`), then the metrics server. Tests make a
`ServiceContext` themselves and call the same `build`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from phantom_platform.clock import Clock
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.rpc.client import TokenSource

if TYPE_CHECKING:
    from phantom_platform.deadletters import DeadLetters
    from phantom_platform.kafka import Producer


@dataclass(frozen=True)
class ServiceContext:
    """Shared by the services of a process; made by `standalone`, or by a test.

    `control_address` is the host:port at which this process reaches the control services, its own included.
    `producer` is started before, and stopped after, every part of a service.
    """

    kafka_bootstrap: str
    postgres_dsn: str
    control_address: str
    data_dir: Path
    clock: Clock
    registry: CollectorRegistry
    producer: Producer
    verifier: TokenVerifier
    # A service with consumers appends its own; one servicer in front of the process serves them all.
    dead_letters: list[DeadLetters] = field(default_factory=list)

    @property
    def secrets_dir(self) -> Path:
        """Files of mode 0600: the administrator's first password, service keys, the signing key."""
        return self.data_dir / "secrets"

    def token_source(self, service: str) -> TokenSource:
        """Tokens for the calls of `service` itself; give it to `control_channel(context.control_address, …)`."""
        key_file = self.secrets_dir / f"{service}.key"
        return TokenSource(self.control_address, service, key_file, self.clock)
