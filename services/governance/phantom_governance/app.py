"""The parts of governance, each made once, in the order they start."""

from pathlib import Path

from phantom.governance.v1.governance_service_pb2_grpc import add_GovernanceServiceServicer_to_server
from phantom_governance.bootstrap import SIGNING_KEY_FILE, Bootstrap
from phantom_governance.metrics import GovernanceMetrics
from phantom_governance.passwords import Passwords
from phantom_governance.rpc import GovernanceRpc
from phantom_governance.secret_files import Keyring
from phantom_governance.service import Governance, Policy
from phantom_governance.settings import GovernanceSettings
from phantom_governance.store import PostgresPrincipals
from phantom_platform import rpc
from phantom_platform.lifecycle import Application
from phantom_platform.postgres import Database, OutboxRelay
from phantom_platform.service import ServiceContext

MIGRATIONS = Path(__file__).parent / "migrations"
SERVICE = "phantom.governance.v1.GovernanceService"


def build(
    context: ServiceContext, settings: GovernanceSettings, *, passwords: Passwords | None = None
) -> Application:
    """`passwords` is for tests: argon2 with cheap parameters."""
    app = Application("governance")
    database = app.add(
        Database(
            context.postgres_dsn,
            "governance",
            migrations=MIGRATIONS,
            clock=context.clock,
            source="phantom/governance",
        )
    )
    principals, keyring = PostgresPrincipals(database), Keyring(context.secrets_dir / SIGNING_KEY_FILE)
    passwords = passwords or Passwords()
    app.add(OutboxRelay(database, context.producer, registry=context.registry))
    app.add(Bootstrap(principals, passwords, keyring, context.secrets_dir))
    governance = Governance(
        principals,
        passwords,
        keyring,
        context.clock,
        Policy(settings.token_life_s, settings.failures_per_minute),
        GovernanceMetrics(context.registry),
    )
    app.servicers.append(
        rpc.servicer(
            add_GovernanceServiceServicer_to_server,
            GovernanceRpc(governance),
            SERVICE,
            audit=rpc.DatabaseAuditSink(database),
        )
    )
    return app
