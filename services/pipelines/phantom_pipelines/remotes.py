"""Other services, over gRPC: the registry, governance, the deployer. Every call is made in a workspace."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from phantom.deployer.v1 import deployer_service_pb2 as deployer
from phantom.deployer.v1 import deployment_pb2, rollout_pb2
from phantom.deployer.v1 import rollout_service_pb2 as rollouts
from phantom.deployer.v1.deployer_service_pb2_grpc import DeployerServiceStub
from phantom.deployer.v1.rollout_service_pb2_grpc import RolloutServiceStub
from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.governance.v1.governance_service_pb2_grpc import GovernanceServiceStub
from phantom.registry.v1 import model_pb2
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from phantom_pipelines.domain.values import Dataset, Deployed, Endpoint, Lineage, ModelVersion, SourceData
from phantom_platform.errors import NotFound, Refused
from phantom_platform.rpc.client import translated

CALL_TIMEOUT_S = 10.0
DOWNLOAD_TIMEOUT_S = 600.0
PAGE = 500


class GrpcRegistry:
    """Versions, lineage, datasets and artifacts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RegistryServiceStub(channel)

    async def version(self, workspace: str, model_id: str, version: str) -> ModelVersion:
        """Without a version: the newest. `NotFound` `model_not_found`, `version_not_found`."""
        if not version:
            return await self._newest(workspace, model_id)
        request = registry.GetVersionRequest(model_id=model_id, version=version)
        with translated():
            answer = await self._stub.GetVersion(request, **_in(workspace))
        return to_version(answer.version)

    async def _newest(self, workspace: str, model_id: str) -> ModelVersion:
        request = registry.ListVersionsRequest(model_id=model_id, page_size=1)
        with translated():
            answer = await self._stub.ListVersions(request, **_in(workspace))
        if not answer.versions:
            raise NotFound(
                f"model {model_id} has no version yet", code="version_not_found", model_id=model_id
            )
        return to_version(answer.versions[0])

    async def lineage(self, workspace: str, model_id: str, version: str) -> Lineage:
        """Empty where none was recorded."""
        request = registry.GetLineageRequest(model_id=model_id, version=version)
        try:
            with translated():
                answer = await self._stub.GetLineage(request, **_in(workspace))
        except NotFound as error:
            if error.code != "lineage_not_found":
                raise
            return Lineage()
        sources = [SourceData(each.dataset, each.version, each.role) for each in answer.lineage.source_data]
        return Lineage(tuple(sources), dict(answer.lineage.dependencies))

    async def dataset(self, workspace: str, name: str, version: str) -> Dataset:
        """Without a version: the newest. `NotFound` `dataset_not_found`."""
        request = registry.GetDatasetRequest(name=name, version=version)
        with translated():
            found = (await self._stub.GetDataset(request, **_in(workspace))).dataset
        metadata = MessageToDict(found.metadata)
        return Dataset(found.name, found.version, found.digest, found.uri, found.rows, metadata)

    async def download(self, workspace: str, digest: str, target: Path) -> None:
        """An artifact's bytes into a new file. `NotFound` `artifact_not_found`; `Refused` `digest_mismatch`."""
        request = registry.DownloadArtifactRequest(digest=digest)
        found = hashlib.sha256()
        with translated(), target.open("xb") as file:
            async for each in self._stub.DownloadArtifact(
                request, timeout=DOWNLOAD_TIMEOUT_S, metadata=_metadata(workspace)
            ):
                found.update(each.chunk)
                file.write(each.chunk)
        if f"sha256:{found.hexdigest()}" != digest:
            raise Refused(f"what the registry sent is not {digest}", code="digest_mismatch", digest=digest)


class GrpcArtifactTokens:
    """Governance."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = GovernanceServiceStub(channel)

    async def issue(self, workspace: str, digest: str, subject: str) -> str:
        """A token that reads this artifact and nothing else."""
        request = governance.IssueArtifactTokenRequest(digests=[digest], subject=subject)
        with translated():
            answer = await self._stub.IssueArtifactToken(request, **_in(workspace))
        return str(answer.token.value)


class GrpcDeployer:
    """Environments, deployments and rollouts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._deployments = DeployerServiceStub(channel)
        self._rollouts = RolloutServiceStub(channel)

    async def environments(self, workspace: str) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = deployer.ListEnvironmentsRequest(page_size=PAGE, page_token=token)
            with translated():
                answer = await self._deployments.ListEnvironments(request, **_in(workspace))
            found += [each.name for each in answer.environments]
            token = answer.next_page_token
            if not token:
                return found

    async def endpoints(self, workspace: str, environment: str) -> list[Endpoint]:
        """Every deployment of an environment that is there to stay."""
        found: list[Endpoint] = []
        token = ""
        while True:
            request = deployer.ListDeploymentsRequest(
                page_size=PAGE, page_token=token, environment=environment
            )
            with translated():
                answer = await self._deployments.ListDeployments(request, **_in(workspace))
            found += [to_endpoint(each) for each in answer.deployments if each.phase != "deleting"]
            token = answer.next_page_token
            if not token:
                return found

    async def endpoint(self, workspace: str, name: str) -> Endpoint:
        """By id or alias. `NotFound` `deployment_not_found`."""
        request = deployer.GetDeploymentRequest(deployment_id=name)
        with translated():
            answer = await self._deployments.GetDeployment(request, **_in(workspace))
        return to_endpoint(answer.deployment)

    async def deploy(self, workspace: str, request: deployer.DeployRequest) -> Deployed:
        """What it made; also when it is asked again."""
        with translated():
            answer = await self._deployments.Deploy(request, **_in(workspace))
        found = answer.deployment
        return Deployed(found.deployment_id, answer.revision == found.stable.revision)

    async def delete(self, workspace: str, deployment_id: str, request_id: str) -> None:
        request = deployer.DeleteDeploymentRequest(deployment_id=deployment_id, request_id=request_id)
        with translated():
            await self._deployments.DeleteDeployment(request, **_in(workspace))

    async def drop_candidate(self, workspace: str, deployment_id: str, request_id: str) -> None:
        """Takes a candidate's traffic, and then the candidate, away."""
        request = deployer.RollbackCanaryRequest(
            deployment_id=deployment_id, remove=True, request_id=request_id
        )
        with translated():
            await self._deployments.RollbackCanary(request, **_in(workspace))

    async def create_rollout(
        self, workspace: str, request: rollouts.CreateRolloutRequest
    ) -> rollout_pb2.Rollout:
        with translated():
            answer = await self._rollouts.CreateRollout(request, **_in(workspace))
        return answer.rollout

    async def rollout(self, workspace: str, rollout_id: str) -> rollout_pb2.Rollout:
        request = rollouts.GetRolloutRequest(rollout_id=rollout_id)
        with translated():
            answer = await self._rollouts.GetRollout(request, **_in(workspace))
        return answer.rollout

    async def roll_back(
        self, workspace: str, rollout_id: str, reason: str, request_id: str
    ) -> rollout_pb2.Rollout:
        request = rollouts.RollBackRolloutRequest(rollout_id=rollout_id, reason=reason, request_id=request_id)
        with translated():
            answer = await self._rollouts.RollBackRollout(request, **_in(workspace))
        return answer.rollout


def to_version(found: model_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        model_id=found.model_id,
        version=found.version,
        digest=found.digest,
        size_bytes=found.size_bytes,
        file_name=found.file_name,
        framework=found.framework,
        schema_json=found.schema_json,
        metadata=MessageToDict(found.metadata),
        claimed_metrics=MessageToDict(found.claimed_metrics),
        created_by=found.created_by,
    )


def to_endpoint(found: deployment_pb2.Deployment) -> Endpoint:
    is_serving = found.HasField("stable")
    return Endpoint(
        deployment_id=found.deployment_id,
        environment=found.environment,
        model_id=found.model_id,
        version=found.stable.model_version if is_serving else "",
        digest=found.stable.digest if is_serving else "",
        phase=found.phase,
        reason=found.reason,
        is_rolling_out=found.HasField("candidate"),
        aliases=tuple(found.aliases),
    )


def _metadata(workspace: str) -> tuple[tuple[str, str], ...]:
    return (("phantom-workspace", workspace),)


def _in(workspace: str) -> dict[str, Any]:
    return {"timeout": CALL_TIMEOUT_S, "metadata": _metadata(workspace)}
