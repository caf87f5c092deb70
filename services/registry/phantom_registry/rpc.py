"""gRPC in: phantom.registry.v1.RegistryService. Wire to values, one call, values to wire."""

# ruff: noqa: N802 - the methods are called as the proto names them

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1 import registry_service_pb2_grpc as pb_grpc
from phantom_platform.errors import Forbidden, Invalid, Violation
from phantom_platform.rpc import Caller, current_caller
from phantom_registry import converters as convert
from phantom_registry.domain import pages
from phantom_registry.domain.approvals import State
from phantom_registry.domain.lineage import Kind, Node
from phantom_registry.domain.values import Artifact
from phantom_registry.service import Datasets, Lineages, Models, Promotions

SERVICE = "phantom.registry.v1.RegistryService"
Context = Any
UploadStream = AsyncIterator[pb.UploadArtifactRequest]


class RegistryRpc(pb_grpc.RegistryServiceServicer):
    """The door. Errors are mapped, and requests validated, by the platform's server."""

    def __init__(
        self, models: Models, promotions: Promotions, datasets: Datasets, lineages: Lineages
    ) -> None:
        self._models = models
        self._promotions = promotions
        self._datasets = datasets
        self._lineages = lineages

    async def UploadArtifact(self, request: UploadStream, context: Context) -> pb.UploadArtifactResponse:
        header = await _header(request)
        announced = Artifact(header.digest, header.size_bytes)
        created = await self._models.upload(convert.to_call(header), announced, _chunks(request))
        return pb.UploadArtifactResponse(
            digest=announced.digest, size_bytes=announced.size_bytes, created=created
        )

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        caller = current_caller()
        artifact, chunks = await self._models.download(caller.workspace, request.digest, _scope(caller))
        size_bytes = artifact.size_bytes
        async for chunk in chunks:
            yield pb.DownloadArtifactResponse(chunk=chunk, size_bytes=size_bytes)
            size_bytes = 0

    async def RegisterModel(
        self, request: pb.RegisterModelRequest, context: Context
    ) -> pb.RegisterModelResponse:
        spec = convert.to_spec(request.version) if request.HasField("version") else None
        done = await self._models.register(
            convert.to_call(request), request.model_id, request.description, list(request.tags), spec
        )
        version = convert.from_version(done.version) if done.version else None
        return pb.RegisterModelResponse(model=convert.from_model(done.model), version=version)

    async def CreateVersion(
        self, request: pb.CreateVersionRequest, context: Context
    ) -> pb.CreateVersionResponse:
        call, spec = convert.to_call(request), convert.to_spec(request.version)
        version = await self._models.create_version(call, request.model_id, spec)
        return pb.CreateVersionResponse(version=convert.from_version(version))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        model = await self._models.get(_workspace(request), request.model_id)
        return pb.GetModelResponse(model=convert.from_model(model))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        workspace, stage = _workspace(request), convert.to_stage(request.stage)
        filters = (workspace, request.text, sorted(request.tags), request.stage)
        page = pages.page(request.page_size, request.page_token, *filters)
        found = await self._models.list_models(workspace, page, request.text, list(request.tags), stage)
        token = pages.token(found.last, *filters)
        return pb.ListModelsResponse(models=map(convert.from_model, found.items), next_page_token=token)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> pb.GetVersionResponse:
        version = await self._models.get_version(_workspace(request), request.model_id, request.version)
        return pb.GetVersionResponse(version=convert.from_version(version))

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        workspace = _workspace(request)
        filters = (workspace, request.model_id)
        page = pages.page(request.page_size, request.page_token, *filters)
        found = await self._models.list_versions(workspace, page, request.model_id)
        token = pages.token(found.last, *filters)
        return pb.ListVersionsResponse(versions=map(convert.from_version, found.items), next_page_token=token)

    async def SetTags(self, request: pb.SetTagsRequest, context: Context) -> pb.SetTagsResponse:
        model = await self._models.set_tags(convert.to_call(request), request.model_id, list(request.tags))
        return pb.SetTagsResponse(model=convert.from_model(model))

    async def PromoteModel(
        self, request: pb.PromoteModelRequest, context: Context
    ) -> pb.PromoteModelResponse:
        promotion = await self._promotions.promote(convert.to_call(request), convert.to_ask(request))
        return pb.PromoteModelResponse(promotion=convert.from_promotion(promotion))

    async def GetPromotion(
        self, request: pb.GetPromotionRequest, context: Context
    ) -> pb.GetPromotionResponse:
        promotion = await self._promotions.get(_workspace(request), request.promotion_id)
        return pb.GetPromotionResponse(promotion=convert.from_promotion(promotion))

    async def ListApprovals(
        self, request: pb.ListApprovalsRequest, context: Context
    ) -> pb.ListApprovalsResponse:
        workspace, wanted = _workspace(request), request.state or State.PENDING.value
        filters = (workspace, wanted, request.model_id)
        page = pages.page(request.page_size, request.page_token, *filters)
        state = None if wanted == "all" else State(wanted)
        found = await self._promotions.list_promotions(workspace, page, state, request.model_id)
        token = pages.token(found.last, *filters)
        promotions = map(convert.from_promotion, found.items)
        return pb.ListApprovalsResponse(promotions=promotions, next_page_token=token)

    async def DecideApproval(
        self, request: pb.DecideApprovalRequest, context: Context
    ) -> pb.DecideApprovalResponse:
        promotion = await self._promotions.decide(
            convert.to_call(request), request.promotion_id, request.grant, request.comment
        )
        return pb.DecideApprovalResponse(promotion=convert.from_promotion(promotion))

    async def RegisterDataset(
        self, request: pb.RegisterDatasetRequest, context: Context
    ) -> pb.RegisterDatasetResponse:
        dataset = await self._datasets.register(convert.to_call(request), convert.to_dataset(request))
        return pb.RegisterDatasetResponse(dataset=convert.from_dataset(dataset))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        dataset = await self._datasets.get(_workspace(request), request.name, request.version)
        return pb.GetDatasetResponse(dataset=convert.from_dataset(dataset))

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        workspace = _workspace(request)
        page = pages.page(request.page_size, request.page_token, workspace)
        found = await self._datasets.list_datasets(workspace, page)
        token = pages.token(found.last, workspace)
        return pb.ListDatasetsResponse(datasets=map(convert.from_dataset, found.items), next_page_token=token)

    async def CreateLineage(
        self, request: pb.CreateLineageRequest, context: Context
    ) -> pb.CreateLineageResponse:
        lineage = await self._lineages.create(
            convert.to_call(request), request.model_id, request.version, convert.to_content(request)
        )
        return pb.CreateLineageResponse(lineage=convert.from_lineage(lineage))

    async def GetLineage(self, request: pb.GetLineageRequest, context: Context) -> pb.GetLineageResponse:
        lineage = await self._lineages.get(_workspace(request), request.model_id, request.version)
        return pb.GetLineageResponse(lineage=convert.from_lineage(lineage))

    async def QueryLineage(
        self, request: pb.QueryLineageRequest, context: Context
    ) -> pb.QueryLineageResponse:
        start = Node(Kind(request.kind), request.name, request.version)
        found = await self._lineages.query(
            _workspace(request),
            start,
            downstream=request.direction == "downstream",
            max_distance=request.max_distance,
        )
        return pb.QueryLineageResponse(nodes=[convert.from_node(node, far) for node, far in found])


def _workspace(request: Any) -> str:
    """The caller's, for a read; its texts go into queries."""
    convert.refuse_nul(request)
    return current_caller().workspace


async def _header(request: UploadStream) -> pb.ArtifactHeader:
    first = await anext(request, None)
    if first is None or not first.HasField("header"):
        raise _misplaced("header", "the first message says what is coming")
    return first.header


async def _chunks(request: UploadStream) -> AsyncIterator[bytes]:
    async for each in request:
        if not each.HasField("chunk"):
            raise _misplaced("header", "only the first message is a header")
        yield each.chunk


def _misplaced(field: str, description: str) -> Invalid:
    return Invalid(code="upload_order", violations=[Violation(field, description)])


def _scope(caller: Caller) -> list[str] | None:
    """The digests that the caller's token is scoped to; None: it is not scoped."""
    if "artifacts" not in caller.claims:
        return None
    digests = caller.claims["artifacts"]
    if not (isinstance(digests, list) and all(isinstance(each, str) for each in digests)):
        raise Forbidden(
            "the token's scope of artifacts is not a list of digests", code="artifact_not_in_scope"
        )
    return digests
