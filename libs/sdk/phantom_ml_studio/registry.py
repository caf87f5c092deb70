"""`ModelRegistry`: models, versions, stages, approvals, lineage and datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from phantom.registry.v1 import model_pb2 as messages
from phantom.registry.v1 import registry_service_pb2 as rpc
from phantom.registry.v1 import registry_service_pb2_grpc as stubs
from phantom_ml_studio import values
from phantom_ml_studio.client import Client, new_request_id
from phantom_ml_studio.errors import Invalid, NotFound

_CHUNK = 512 * 1024
STAGES = ("development", "staging", "production", "archived")


class ModelRegistry:
    """The central catalogue of models. Raises the errors of `phantom_ml_studio.errors`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = stubs.RegistryServiceStub(client.channel)

    # -- models and versions ---------------------------------------------------------------------------------------

    def register_model(
        self,
        name: str,
        model_path: str | Path,
        description: str = "",
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        stage: str = "development",
        schema: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> values.ModelRegistration:
        """Register a model and its first version, `metadata["version"]` (1.0.0 where absent).

        `metadata["performance_metrics"]` are stored as claimed metrics. `schema` names the features, class labels and
        outcome (a version without one can be registered, not deployed). The file's bytes are stored by content.
        Errors: AlreadyExists `model_exists`, `version_exists`; Invalid.
        """
        known = dict(metadata or {})
        spec = self._spec(str(known.get("version", "1.0.0")), model_path, known, schema, stage)
        request = rpc.RegisterModelRequest(
            model_id=name,
            description=description,
            tags=tags,
            version=spec,
            request_id=new_request_id(request_id),
        )
        response = self._client.call(self._stub.RegisterModel, request)
        return values.ModelRegistration.of(response.model, response.version)

    def create_version(
        self,
        model_id: str,
        version: str,
        model_path: str | Path,
        changes: Sequence[str] = (),
        performance_comparison: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        schema: Mapping[str, Any] | None = None,
        stage: str = "staging",
        request_id: str | None = None,
    ) -> values.ModelVersion:
        """Add a version. The same version with the same bytes again is the same version.

        It is meant to follow the model's present one, so it starts in staging, from where it is promoted. Where no
        schema is given, the newest version's is taken over. Errors: AlreadyExists `version_exists`.
        """
        spec = self._spec(
            version, model_path, dict(metadata or {}), schema or self._newest_schema(model_id), stage
        )
        spec.changes.extend(changes)
        if performance_comparison:
            spec.performance_comparison.CopyFrom(_struct(performance_comparison))
        request = rpc.CreateVersionRequest(
            model_id=model_id, version=spec, request_id=new_request_id(request_id)
        )
        return values.ModelVersion.of(self._client.call(self._stub.CreateVersion, request).version)

    def get_model(self, model_id: str) -> values.Model:
        """Errors: NotFound `model_not_found`."""
        return values.Model.of(
            self._client.call(self._stub.GetModel, rpc.GetModelRequest(model_id=model_id)).model
        )

    def list_models(
        self, text: str = "", tags: Sequence[str] = (), stage: str | None = None
    ) -> list[values.Model]:
        """Models that match all of these, newest first."""
        request = rpc.ListModelsRequest(text=text, tags=tags, stage=_stage(stage))
        return [values.Model.of(m) for m in self._client.pages(self._stub.ListModels, request, "models")]

    def get_version(self, model_id: str, version: str = "") -> values.ModelVersion:
        """A version; without a name the newest in production, else the newest."""
        request = rpc.GetVersionRequest(model_id=model_id, version=version)
        return values.ModelVersion.of(self._client.call(self._stub.GetVersion, request).version)

    def list_versions(self, model_id: str) -> list[values.ModelVersion]:
        """Every version, newest first."""
        request = rpc.ListVersionsRequest(model_id=model_id)
        pages = self._client.pages(self._stub.ListVersions, request, "versions")
        return [values.ModelVersion.of(v) for v in pages]

    def set_tags(self, model_id: str, tags: Sequence[str], request_id: str | None = None) -> values.Model:
        """Replace a model's tags."""
        request = rpc.SetTagsRequest(model_id=model_id, tags=tags, request_id=new_request_id(request_id))
        return values.Model.of(self._client.call(self._stub.SetTags, request).model)

    def download(self, digest: str, destination: str | Path) -> Path:
        """Write an artifact to a file, checked against its digest. Errors: NotFound `artifact_not_found`."""
        path, sha = Path(destination), hashlib.sha256()
        request = rpc.DownloadArtifactRequest(digest=digest)
        with path.open("wb") as file:
            for part in self._client.stream(self._stub.DownloadArtifact, request):
                sha.update(part.chunk)
                file.write(part.chunk)
        if f"sha256:{sha.hexdigest()}" != digest:
            path.unlink()
            raise Invalid(f"what came is not {digest}", code="digest_mismatch")
        return path

    # -- stages and approvals --------------------------------------------------------------------------------------

    def promote_model(
        self,
        model_id: str,
        version: str,
        to_stage: str,
        from_stage: str | None = None,
        approval_required: bool = False,
        reviewer: str = "",
        expires_in_s: int = 0,
        request_id: str | None = None,
    ) -> values.Promotion:
        """Move a version to a stage: at once, or (state `pending`) once the reviewer grants it.

        Errors: Conflict `stale_stage` where the version is not in `from_stage`; Invalid `reviewer_is_requester`.
        """
        request = rpc.PromoteModelRequest(
            model_id=model_id,
            version=version,
            from_stage=_stage(from_stage),
            to_stage=_stage(to_stage),
            approval_required=approval_required,
            reviewer=reviewer,
            expires_in_s=expires_in_s,
            request_id=new_request_id(request_id),
        )
        return values.Promotion.of(self._client.call(self._stub.PromoteModel, request).promotion)

    def get_promotion(self, promotion_id: str) -> values.Promotion:
        """Errors: NotFound `promotion_not_found`."""
        request = rpc.GetPromotionRequest(promotion_id=promotion_id)
        return values.Promotion.of(self._client.call(self._stub.GetPromotion, request).promotion)

    def list_approvals(self, state: str = "pending", model_id: str = "") -> list[values.Promotion]:
        """Promotions that wait for an approval, or (`state`) what became of them."""
        request = rpc.ListApprovalsRequest(state=state, model_id=model_id)
        pages = self._client.pages(self._stub.ListApprovals, request, "promotions")
        return [values.Promotion.of(p) for p in pages]

    def grant_approval(
        self, promotion_id: str, comment: str = "", request_id: str | None = None
    ) -> values.Promotion:
        """Let a promotion happen. Errors: Forbidden `own_request`, `not_the_reviewer`; Refused `expired`."""
        return self._decide(promotion_id, True, comment, request_id)

    def reject_approval(
        self, promotion_id: str, comment: str = "", request_id: str | None = None
    ) -> values.Promotion:
        """Refuse a promotion."""
        return self._decide(promotion_id, False, comment, request_id)

    def _decide(
        self, promotion_id: str, grant: bool, comment: str, request_id: str | None
    ) -> values.Promotion:
        request = rpc.DecideApprovalRequest(
            promotion_id=promotion_id, grant=grant, comment=comment, request_id=new_request_id(request_id)
        )
        return values.Promotion.of(self._client.call(self._stub.DecideApproval, request).promotion)

    # -- datasets and lineage --------------------------------------------------------------------------------------

    def register_dataset(
        self,
        name: str,
        version: str,
        path: str | Path | None = None,
        digest: str = "",
        uri: str = "",
        rows: int = 0,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> values.Dataset:
        """Register a dataset by its content: the digest of `path`, or one that you computed.

        Pipelines and test suites read the file at its `uri` where the platform runs, below the folders that it may
        read (`datasets` in its data directory, `PHANTOM_PIPELINES_DATASET_ROOTS`).
        """
        if (path is None) == (not digest):
            raise Invalid("give a path or a digest, not both", code="dataset_content")
        request = rpc.RegisterDatasetRequest(
            name=name,
            version=version,
            digest=digest or file_digest(Path(str(path))),
            uri=uri or (Path(str(path)).resolve().as_uri() if path else ""),
            rows=rows,
            metadata=_struct(metadata or {}),
            request_id=new_request_id(request_id),
        )
        return values.Dataset.of(self._client.call(self._stub.RegisterDataset, request).dataset)

    def get_dataset(self, name: str, version: str = "") -> values.Dataset:
        """A dataset; without a version the newest."""
        request = rpc.GetDatasetRequest(name=name, version=version)
        return values.Dataset.of(self._client.call(self._stub.GetDataset, request).dataset)

    def list_datasets(self) -> list[values.Dataset]:
        """Every dataset, newest first."""
        pages = self._client.pages(self._stub.ListDatasets, rpc.ListDatasetsRequest(), "datasets")
        return [values.Dataset.of(d) for d in pages]

    def create_lineage(
        self,
        model_id: str,
        lineage_info: Mapping[str, Any],
        version: str = "",
        request_id: str | None = None,
    ) -> values.Lineage:
        """Say where a version (the newest where not named) comes from.

        `lineage_info`: source_data [{dataset, version, hash, role}], feature_pipelines [{pipeline, version,
        transformations}], training_code {repository, commit, branch}, dependencies {package: version}.
        """
        request = rpc.CreateLineageRequest(
            model_id=model_id, version=version, request_id=new_request_id(request_id)
        )
        _merge(request, lineage_info)
        return values.Lineage.of(self._client.call(self._stub.CreateLineage, request).lineage)

    def get_lineage(self, model_id: str, version: str = "") -> values.Lineage:
        """Errors: NotFound `lineage_not_found`."""
        request = rpc.GetLineageRequest(model_id=model_id, version=version)
        return values.Lineage.of(self._client.call(self._stub.GetLineage, request).lineage)

    def query_lineage(
        self, kind: str, name: str, version: str = "", direction: str = "upstream", max_distance: int = 0
    ) -> list[values.LineageNode]:
        """What a node was made from (`upstream`), or what was made from it (`downstream`).

        `kind` is model_version, dataset, pipeline or code.
        """
        request = rpc.QueryLineageRequest(
            kind=kind, name=name, version=version, direction=direction, max_distance=max_distance
        )
        response = self._client.call(self._stub.QueryLineage, request)
        return [values.LineageNode(n.kind, n.name, n.version, n.distance) for n in response.nodes]

    # -- parts -----------------------------------------------------------------------------------------------------

    def _spec(
        self,
        version: str,
        model_path: str | Path,
        metadata: dict[str, Any],
        schema: Mapping[str, Any] | None,
        stage: str,
    ) -> rpc.VersionSpec:
        path = Path(model_path)
        digest = self._upload(path)
        return rpc.VersionSpec(
            version=version,
            digest=digest,
            file_name=path.name,
            description=str(metadata.get("description", "")),
            metadata=_struct(metadata),
            claimed_metrics=_struct(metadata.get("performance_metrics") or {}),
            schema_json=json.dumps(schema) if schema else "",
            stage=_stage(stage),
        )

    def _upload(self, path: Path) -> str:
        if not path.is_file():
            raise Invalid(f"{path} is not a file", code="model_file_missing")
        digest = file_digest(path)
        header = rpc.ArtifactHeader(file_name=path.name, digest=digest, size_bytes=path.stat().st_size)

        def parts() -> Iterator[rpc.UploadArtifactRequest]:
            yield rpc.UploadArtifactRequest(header=header)
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield rpc.UploadArtifactRequest(chunk=chunk)

        return self._client.call(
            lambda _request, **kwargs: self._stub.UploadArtifact(parts(), **kwargs), None, timeout_s=3600
        ).digest

    def _newest_schema(self, model_id: str) -> dict[str, Any] | None:
        request = rpc.ListVersionsRequest(model_id=model_id, page_size=1)
        try:
            newest = self._client.call(self._stub.ListVersions, request).versions
        except NotFound:
            return None
        return json.loads(newest[0].schema_json) if newest and newest[0].schema_json else None


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _struct(content: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(json.loads(json.dumps(dict(content), default=str)))
    return struct


def _merge(request: rpc.CreateLineageRequest, info: Mapping[str, Any]) -> None:
    known = {"source_data", "feature_pipelines", "training_code", "dependencies"}
    if unknown := sorted(set(info) - known):
        raise Invalid(f"lineage_info has no {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    try:
        ParseDict(dict(info), request)
    except ValueError as error:
        raise Invalid(f"lineage_info: {error}", code="lineage_info") from error


def _stage(name: str | None) -> messages.Stage:
    if name is None:
        return messages.STAGE_UNSPECIFIED
    if name not in STAGES:
        raise Invalid(f"there is no stage {name!r}: one of {', '.join(STAGES)}", code="unknown_stage")
    stage: messages.Stage = getattr(messages, f"STAGE_{name.upper()}")
    return stage
