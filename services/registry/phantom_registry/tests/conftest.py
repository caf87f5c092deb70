"""The registry on a real Postgres, in front of a real gRPC server; people with tokens; a real artifact."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from phantom_platform import rpc
from phantom_platform.errors import PhantomError
from phantom_platform.postgres import Database
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import Serving, serving
from phantom_registry.artifacts import LocalArtifacts
from phantom_registry.metrics import Metrics
from phantom_registry.rpc import SERVICE, RegistryRpc
from phantom_registry.service import Datasets, Lineages, Models, Promotions
from phantom_registry.store import MIGRATIONS, SCHEMA, PostgresRegistry

EVERYTHING = (
    "artifacts:*",
    "models:read",
    "models:write",
    "models:promote",
    "models:review",
    "datasets:*",
)
# Starts like an XGBoost JSON model, which is all that the registry looks at.
MODEL_BYTES = json.dumps({"learner": {"gradient_booster": {}}, "version": [3, 2, 0]}).encode()
SCHEMA_JSON = json.dumps(
    {"features": [{"name": "amount"}, {"name": "hour"}], "class_labels": ["legit", "fraud"]}
)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def small_artifacts(
    root: Path, *, max_bytes: int = 64 * 1024 * 1024, min_free_bytes: int = 0
) -> LocalArtifacts:
    return LocalArtifacts(
        root, max_bytes=max_bytes, min_free_bytes=min_free_bytes, metrics=Metrics(CollectorRegistry())
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    database = Database(
        postgres_dsn, SCHEMA, migrations=MIGRATIONS, clock=FakeClock(), source="phantom/registry"
    )
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
def clock(database: Database) -> FakeClock:
    """The database's too."""
    assert isinstance(database.clock, FakeClock)
    return database.clock


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@dataclass
class Running:
    """A registry that runs, and ways to call it."""

    database: Database
    store: PostgresRegistry
    artifacts: LocalArtifacts
    models: Models
    promotions: Promotions
    issuer: Issuer
    serving: Serving
    stack: AsyncExitStack

    async def client(self, principal: str = "ada", *permissions: str, **claims: Any) -> RegistryServiceStub:
        """A stub with the token of `principal`."""
        token = self.issuer.token(
            principal, *(permissions or EVERYTHING), workspaces=("default", "other"), **claims
        )
        channel = await self.stack.enter_async_context(
            rpc.control_channel(self.serving.address, FixedToken(token))
        )
        return RegistryServiceStub(channel)

    async def events(self, kind: str = "") -> list[dict[str, Any]]:
        """What the outbox holds, oldest first; of `kind`, such as `StageChanged`."""
        rows = await self.database.fetch("SELECT topic, key, value, headers FROM outbox ORDER BY id")
        found = []
        for row in rows:
            headers = dict(json.loads(row["headers"]))
            if row["topic"] == "phantom.registry.events.v1" and f".{kind}" in headers["ce_type"]:
                event = {"key": row["key"].decode(), "number": int(headers["ce_aggregateversion"])}
                found.append({**event, "kind": headers["ce_type"].split(".")[2], **json.loads(row["value"])})
        return found

    async def audits(self) -> list[dict[str, Any]]:
        rows = await self.database.fetch(
            "SELECT value FROM outbox WHERE topic = 'phantom.audit.v1' ORDER BY id"
        )
        return [json.loads(row["value"]) for row in rows]


@asynccontextmanager
async def running(database: Database, root: Path, issuer: Issuer, **options: int) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        artifacts = small_artifacts(root, **options)
        await artifacts.start()
        store = PostgresRegistry(database)
        models, promotions = Models(store, artifacts), Promotions(store, artifacts, database.clock)
        door = RegistryRpc(models, promotions, Datasets(store), Lineages(store))
        servicer = rpc.servicer(
            add_RegistryServiceServicer_to_server, door, SERVICE, audit=rpc.DatabaseAuditSink(database)
        )
        server = await stack.enter_async_context(serving(servicer, verifier=issuer.verifier))
        yield Running(database, store, artifacts, models, promotions, issuer, server, stack)


@pytest_asyncio.fixture(loop_scope="session")
async def registry(database: Database, tmp_path: Path, issuer: Issuer) -> AsyncIterator[Running]:
    """A registry with empty tables and an empty store."""
    await database.fetch(
        "TRUNCATE models, versions, artifacts, promotions, datasets, lineages, lineage_edges, answers, outbox"
    )
    async with running(database, tmp_path / "artifacts", issuer) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def ada(registry: Running) -> RegistryServiceStub:
    """The author of most things here."""
    return await registry.client("ada")


@pytest_asyncio.fixture(loop_scope="session")
async def bob(registry: Running) -> RegistryServiceStub:
    return await registry.client("bob")


async def upload(
    stub: RegistryServiceStub, content: bytes = MODEL_BYTES, **header: Any
) -> pb.UploadArtifactResponse:
    """In chunks of 1,000 bytes, so that there are several."""
    first = {"file_name": "model.json", "digest": digest_of(content), "size_bytes": len(content), **header}

    async def messages() -> AsyncIterator[pb.UploadArtifactRequest]:
        yield pb.UploadArtifactRequest(header=pb.ArtifactHeader(**first))
        for start in range(0, len(content), 1000):
            yield pb.UploadArtifactRequest(chunk=content[start : start + 1000])

    return await stub.UploadArtifact(messages())


def spec(version: str = "1.0.0", content: bytes = MODEL_BYTES, **fields: Any) -> pb.VersionSpec:
    return pb.VersionSpec(version=version, digest=digest_of(content), file_name="model.json", **fields)


async def register(
    stub: RegistryServiceStub, model_id: str = "fraud", version: str = "1.0.0", **fields: Any
) -> pb.RegisterModelResponse:
    """A model with one version of the usual bytes."""
    await upload(stub)
    return await stub.RegisterModel(
        pb.RegisterModelRequest(model_id=model_id, version=spec(version, **fields))
    )


async def refused(code: str, call: Awaitable[Any]) -> PhantomError:
    """The error of a call that has to be refused with `code`."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    error = rpc.from_rpc_error(caught.value)
    assert error.code == code, f"{error.code}: {error.message}"
    return error


async def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Return as soon as it holds."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - files have no event to wait for
            await asyncio.sleep(0.01)


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], list[Path]]:
    """Every file in the artifact folder, by relative path."""
    return lambda: sorted(
        path.relative_to(tmp_path / "artifacts")
        for path in (tmp_path / "artifacts").rglob("*")
        if path.is_file()
    )
