"""Models, versions, tags and artifacts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from phantom_contracts import topics
from phantom_contracts.events import registry as events
from phantom_contracts.events.base import Event
from phantom_contracts.schema import ModelSchema
from phantom_platform import audit
from phantom_platform.errors import AlreadyExists, Forbidden
from phantom_platform.idempotency import Once
from phantom_platform.ids import check_resource_id
from phantom_registry.domain.stages import Stage, initial_stage
from phantom_registry.domain.values import (
    Artifact,
    Call,
    Listed,
    Model,
    Page,
    Registered,
    Version,
    VersionSpec,
)
from phantom_registry.domain.versions import (
    FRAMEWORK_OF_FORMAT,
    check_file_name,
    check_metadata,
    check_same,
    check_tags,
    claim_warnings,
    with_warnings,
)
from phantom_registry.service import find
from phantom_registry.service.ports import Artifacts, Store, Work


class Models:
    """Use cases on models and what belongs to them."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._once = Once(store)
        self._artifacts = artifacts

    async def upload(self, call: Call, announced: Artifact, chunks: AsyncIterator[bytes]) -> bool:
        """Store bytes; False where this workspace had them. The file is there before the row that promises it."""
        audit.resource(f"{call.workspace}/{announced.digest}")
        await self._artifacts.receive(announced, chunks)
        async with self._store.transaction() as tx:
            tx.mark_mutation()
            return await tx.add_artifact(call.workspace, announced, call.actor.principal)

    async def download(
        self, workspace: str, digest: str, allowed: Sequence[str] | None
    ) -> tuple[Artifact, AsyncIterator[bytes]]:
        """An artifact's bytes; `allowed` are the digests that the caller's token is scoped to (None: any)."""
        if allowed is not None and digest not in allowed:
            raise Forbidden(
                f"this token is for {len(allowed)} other artifacts, not for {digest}",
                code="artifact_not_in_scope",
                digest=digest,
            )
        artifact = await find.artifact(self._store.reads, workspace, digest)
        return artifact, await self._artifacts.open(artifact)

    async def register(
        self, call: Call, model_id: str, description: str, tags: Sequence[str], spec: VersionSpec | None
    ) -> Registered:
        """Create the model, and a version where one is given; what is there already has to be the same."""
        check_resource_id(model_id, "model_id")
        check_tags(tags)
        audit.resource(f"{call.workspace}/{model_id}")
        if (known := await self._once.recall(call, Registered)) is not None:
            return known
        found = await self._inspect(call, model_id, spec) if spec else ""

        async def work(tx: Work) -> Registered:
            await self._ensure_model(tx, call, model_id, description, tags)
            version = await self._ensure_version(tx, call, model_id, spec, found) if spec else None
            return Registered(await find.model(tx, call.workspace, model_id), version)

        return await self._once.run(call, Registered, work)

    async def create_version(self, call: Call, model_id: str, spec: VersionSpec) -> Version:
        """Add a version to a model; the same bytes again are the same version."""
        audit.resource(f"{call.workspace}/{model_id}/{spec.version}")
        if (known := await self._once.recall(call, Version)) is not None:
            return known
        await find.model(self._store.reads, call.workspace, model_id)
        found = await self._inspect(call, model_id, spec)

        async def work(tx: Work) -> Version:
            await find.locked_model(tx, call.workspace, model_id)
            return await self._ensure_version(tx, call, model_id, spec, found)

        return await self._once.run(call, Version, work)

    async def set_tags(self, call: Call, model_id: str, tags: Sequence[str]) -> Model:
        """Replace the model's tags."""
        check_tags(tags)
        audit.resource(f"{call.workspace}/{model_id}")

        async def work(tx: Work) -> Model:
            model = await find.locked_model(tx, call.workspace, model_id)
            if tuple(tags) != model.tags:
                await tx.set_tags(call.workspace, model_id, tags)
                event = events.ModelTagged(
                    workspace=call.workspace, model_id=model_id, actor=call.actor.principal, tags=tuple(tags)
                )
                await announce(tx, event, model_id)
            return await find.model(tx, call.workspace, model_id)

        return await self._once.run(call, Model, work)

    async def get(self, workspace: str, model_id: str) -> Model:
        return await find.model(self._store.reads, workspace, model_id)

    async def list_models(
        self, workspace: str, page: Page, text: str, tags: Sequence[str], stage: Stage | None
    ) -> Listed[Model]:
        """Models that match all of it, newest first."""
        return await self._store.reads.models(workspace, page, text, tags, stage)

    async def get_version(self, workspace: str, model_id: str, name: str) -> Version:
        """Without a name: the one promoted to production last, else the newest."""
        reads = self._store.reads
        if name:
            return await find.version(reads, workspace, model_id, name)
        served = await reads.served_version(workspace, model_id)
        return served or await find.no_version(reads, workspace, model_id, name)

    async def list_versions(self, workspace: str, page: Page, model_id: str) -> Listed[Version]:
        """Newest first."""
        await find.model(self._store.reads, workspace, model_id)
        return await self._store.reads.versions(workspace, page, model_id)

    async def _inspect(self, call: Call, model_id: str, spec: VersionSpec) -> str:
        """The format of the bytes of a version to be; empty where it exists and is only compared."""
        check_metadata(spec.metadata, "version.metadata")
        check_file_name(spec.file_name)
        if await self._store.reads.version(call.workspace, model_id, spec.version) is not None:
            return ""
        artifact = await find.artifact(self._store.reads, call.workspace, spec.digest)
        return await self._artifacts.format_of(artifact)

    async def _ensure_model(
        self, tx: Work, call: Call, model_id: str, description: str, tags: Sequence[str]
    ) -> None:
        """The model, new or the same, locked. `AlreadyExists` `model_exists`."""
        by = call.actor.principal
        created = await tx.add_model(call.workspace, Model(model_id, description, tuple(tags), tx.now, by))
        model = await find.locked_model(tx, call.workspace, model_id)
        if created:
            event = events.ModelRegistered(
                workspace=call.workspace, model_id=model_id, actor=by, tags=tuple(tags)
            )
            await announce(tx, event, model_id)
        elif model.description != description or set(model.tags) != set(tags):
            differs = "description" if model.description != description else "tags"
            raise AlreadyExists(
                f"model {model_id} exists with other {differs}; add a version to it, or set its tags",
                code="model_exists",
                model_id=model_id,
                differs=differs,
            )

    async def _ensure_version(
        self, tx: Work, call: Call, model_id: str, spec: VersionSpec, found_format: str
    ) -> Version:
        """The version, new or the same; the model is locked."""
        existing = await tx.version(call.workspace, model_id, spec.version)
        if existing is not None:
            check_same(existing, spec, _same_schema(existing.model_schema, spec.model_schema))
            return existing
        artifact = await find.artifact(tx, call.workspace, spec.digest)
        version = Version(
            model_id=model_id,
            version=spec.version,
            digest=spec.digest,
            size_bytes=artifact.size_bytes,
            file_name=spec.file_name,
            framework=FRAMEWORK_OF_FORMAT[found_format],
            stage=initial_stage(spec.stage, call.actor.may_promote),
            description=spec.description,
            metadata=with_warnings(spec.metadata, claim_warnings(spec.metadata, found_format)),
            claimed_metrics=spec.claimed_metrics,
            model_schema=spec.model_schema,
            changes=spec.changes,
            performance_comparison=spec.performance_comparison,
            created_at=tx.now,
            created_by=call.actor.principal,
        )
        await tx.add_version(call.workspace, version)
        event = events.VersionCreated(
            workspace=call.workspace,
            model_id=model_id,
            model_version=version.version,
            digest=version.digest,
            framework=version.framework,
            stage=version.stage.value,
            actor=version.created_by,
            model_schema=version.model_schema,
        )
        await announce(tx, event, model_id)
        return version


async def announce(tx: Work, event: Event, model_id: str) -> None:
    """Publish under the model's key, with the model's next event number; the model is locked."""
    number = await tx.next_event(event.workspace, model_id)
    tx.announce(topics.REGISTRY_EVENTS, f"{event.workspace}/{model_id}", event, number)


def _same_schema(one: str, other: str) -> bool:
    """Whether two schemas mean the same, however they are written."""
    if not one or not other:
        return one == other
    return ModelSchema.model_validate_json(one) == ModelSchema.model_validate_json(other)
