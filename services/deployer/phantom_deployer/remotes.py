"""Other services, over gRPC: the registry's versions and governance's artifact tokens."""

from __future__ import annotations

import grpc
from pydantic import ValidationError

from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.governance.v1.governance_service_pb2_grpc import GovernanceServiceStub
from phantom.registry.v1 import model_pb2
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from phantom_contracts.schema import ModelSchema
from phantom_deployer.domain.deployment import ModelVersion
from phantom_platform.errors import Refused
from phantom_platform.rpc.client import translated

CALL_TIMEOUT_S = 10.0
# A start of a replica does not wait longer for its token: a cached artifact needs none.
TOKEN_TIMEOUT_S = 3.0


class GrpcModels:
    """The registry."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RegistryServiceStub(channel)

    async def version(self, workspace: str, model_id: str, version: str) -> ModelVersion:
        request = registry.GetVersionRequest(model_id=model_id, version=version)
        with translated():
            answer = await self._stub.GetVersion(
                request, timeout=CALL_TIMEOUT_S, metadata=(("phantom-workspace", workspace),)
            )
        return to_model_version(answer.version)


def to_model_version(found: model_pb2.ModelVersion) -> ModelVersion:
    """Raises Refused `schema_missing` where a version says nothing of its inputs and outputs."""
    if not found.schema_json:
        raise Refused(
            f"version {found.version} of {found.model_id} has no schema, so nobody knows what to send it; register a "
            "version with its schema",
            code="schema_missing",
            model_id=found.model_id,
            version=found.version,
        )
    try:
        schema = ModelSchema.model_validate_json(found.schema_json)
    except ValidationError as error:
        raise Refused(
            f"the schema of version {found.version} of {found.model_id} cannot be read: {error.errors()[0]['msg']}",
            code="schema_invalid",
            model_id=found.model_id,
            version=found.version,
        ) from error
    return ModelVersion(
        model_id=found.model_id,
        version=found.version,
        digest=found.digest,
        file_name=found.file_name,
        framework=found.framework,
        size_bytes=found.size_bytes,
        model_schema=schema,
    )


class GrpcArtifactTokens:
    """Governance."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = GovernanceServiceStub(channel)

    async def issue(self, workspace: str, digest: str, subject: str) -> str:
        """A token that reads this artifact and nothing else. Raises governance's errors, or Unavailable."""
        request = governance.IssueArtifactTokenRequest(digests=[digest], subject=subject)
        with translated():
            answer = await self._stub.IssueArtifactToken(
                request, timeout=TOKEN_TIMEOUT_S, metadata=(("phantom-workspace", workspace),)
            )
        return str(answer.token.value)
