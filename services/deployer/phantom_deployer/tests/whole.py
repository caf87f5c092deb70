"""The whole deployer as one process after another, with stand-ins for the registry and governance."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import CollectorRegistry

from phantom.deployer.v1 import deployer_service_pb2 as pb
from phantom.deployer.v1.deployer_service_pb2_grpc import DeployerServiceStub
from phantom.deployer.v1.rollout_service_pb2_grpc import RolloutServiceStub
from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.registry.v1 import model_pb2
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom_contracts import topics
from phantom_contracts.events.deployer import RouteRecord
from phantom_deployer.app import build
from phantom_deployer.settings import DeployerSettings
from phantom_deployer.tests.builders import schema
from phantom_platform.errors import NotFound
from phantom_platform.kafka import Projection
from phantom_platform.lifecycle import Application
from phantom_platform.rpc.client import control_channel, from_rpc_error
from phantom_platform.service import ServiceContext
from phantom_platform.testing.audit import MemoryAuditSink
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import Serving, serving, standing_in
from phantom_platform.testing.waiting import until

FAKE = "phantom_deployer.tests.fake_model_server"


class Peers:
    """The registry and governance, as far as the deployer asks them."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.versions: dict[str, model_pb2.ModelVersion] = {}
        for number in range(1, 6):
            self.add(f"1.{number}.0")

    def add(self, version: str, *, file_name: str = "model.json", digest: str = "", **fields: Any) -> None:
        digest = digest or f"sha256:{hashlib.sha256(version.encode()).hexdigest()}"
        fields.setdefault("schema_json", schema().model_dump_json())
        self.versions[version] = model_pb2.ModelVersion(
            model_id="m", version=version, digest=digest, file_name=file_name, framework="xgboost", **fields
        )

    async def get_version(self, request: Any, context: Any) -> registry.GetVersionResponse:
        if request.version not in self.versions:
            raise NotFound(f"no version {request.version}", code="version_not_found")
        found = model_pb2.ModelVersion()
        found.CopyFrom(self.versions[request.version])
        found.model_id = request.model_id
        return registry.GetVersionResponse(version=found)

    async def service_token(self, request: Any, context: Any) -> governance.IssueServiceTokenResponse:
        token = self._issuer.token(request.service, "*")
        expires = Timestamp(seconds=int(time.time()) + 3600)
        return governance.IssueServiceTokenResponse(token=governance.Token(value=token, expires_at=expires))

    async def artifact_token(self, request: Any, context: Any) -> governance.IssueArtifactTokenResponse:
        return governance.IssueArtifactTokenResponse(token=governance.Token(value="artifact-token"))

    def servicers(self) -> list[Any]:
        return [
            standing_in(
                "phantom.registry.v1.RegistryService", audit=MemoryAuditSink(), GetVersion=self.get_version
            ),
            standing_in(
                "phantom.governance.v1.GovernanceService",
                audit=MemoryAuditSink(),
                IssueServiceToken=self.service_token,
                IssueArtifactToken=self.artifact_token,
            ),
        ]


class Control:
    """One deployer process after another, on the same state."""

    def __init__(self, context: ServiceContext, issuer: Issuer, peers: Peers, module: str) -> None:
        self.context = context
        self.issuer = issuer
        self.peers = peers
        self.settings = DeployerSettings(model_server_module=module, drain_timeout_s=5)
        self._stack = AsyncExitStack()
        self.app: Application | None = None
        self.door: Serving | None = None

    @property
    def data_dir(self) -> Path:
        return self.context.data_dir

    async def start(self) -> None:
        context = replace(self.context, registry=CollectorRegistry())
        self.app = build(context, self.settings)
        await self.app.start()
        self._stack = AsyncExitStack()
        self.door = await self._stack.enter_async_context(
            serving(*self.app.servicers, verifier=self.issuer.verifier)
        )
        token = FixedToken(self.issuer.token("ann", "*"))
        channel = await self._stack.enter_async_context(control_channel(self.door.address, token))
        self.stub: Any = DeployerServiceStub(channel)
        self.rollouts: Any = RolloutServiceStub(channel)

    async def rollouts_as(self, principal: str, *permissions: str) -> Any:
        """The door for somebody else, until the deployer stops."""
        assert self.door is not None
        token = FixedToken(self.issuer.token(principal, *(permissions or ("*",))))
        channel = await self._stack.enter_async_context(control_channel(self.door.address, token))
        return RolloutServiceStub(channel)

    async def stop(self) -> None:
        await self._stack.aclose()
        if self.app is not None:
            await self.app.stop()
            self.app = None

    async def deploy(self, name: str, version: str = "1.1.0", **fields: Any) -> pb.DeployResponse:
        request = pb.DeployRequest(
            model_id="m", version=version, environment="production", deployment_id=name, **fields
        )
        return await self.stub.Deploy(request)

    async def get(self, name: str) -> Any:
        return (await self.stub.GetDeployment(pb.GetDeploymentRequest(deployment_id=name))).deployment

    async def ready(self, name: str) -> Any:
        """Its stable revision, and its candidate if there is one, are ready."""

        async def is_ready() -> Any:
            found = await self.get(name)
            waiting = [r for r in (found.stable, found.candidate) if r.revision and r.phase != "ready"]
            return None if waiting else found

        return await until(is_ready, within_s=30)

    async def rollout(self, name: str) -> Any:
        """A deployment whose candidate, at half of the traffic, is ready."""
        await self.deploy(name, replicas=1)
        await self.ready(name)
        await self.deploy(name, "1.2.0", canary_percent=50)
        return await self.ready(name)

    async def complete(self, name: str) -> pb.CompleteRolloutResponse:
        return await self.stub.CompleteRollout(pb.CompleteRolloutRequest(deployment_id=name))

    def drained(self) -> set[str]:
        """Replicas that were told to stop (the stand-in leaves a file)."""
        return {path.stem for path in (self.data_dir / "replicas").glob("*.drained")}

    def experiments_read(self, key: str) -> int | None:
        """The version of the endpoint's experiments that the deployer has applied."""
        assert self.app is not None
        name = f"projection:{topics.EXPERIMENTS.name}"
        (projection,) = (part for part in self.app.parts if part.name == name)
        assert isinstance(projection, Projection)
        return projection.version(key)

    async def route(self, name: str, version: int = 0) -> RouteRecord:
        answer = await self.stub.GetRoute(pb.GetRouteRequest(endpoint=name, version=version))
        return RouteRecord.model_validate_json(answer.record_json)

    def kill_everything(self) -> None:
        """Also what was spawned a moment ago and holds no lock yet: its command names our folder."""
        for process in psutil.process_iter(["cmdline"]):
            if any(each.startswith(str(self.data_dir)) for each in process.info["cmdline"] or ()):
                process.kill()


MakeControl = Callable[[str], Awaitable[Control]]


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        await call
    return from_rpc_error(error.value)
