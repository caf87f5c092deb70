"""Look up or refuse by name."""

from __future__ import annotations

from phantom_platform.errors import NotFound
from phantom_registry.domain.values import Artifact, Model, Version
from phantom_registry.service.ports import Reads, Work


async def model(reads: Reads, workspace: str, model_id: str) -> Model:
    """`NotFound` `model_not_found`."""
    return _model(await reads.model(workspace, model_id), model_id)


async def locked_model(tx: Work, workspace: str, model_id: str) -> Model:
    """The model, ours until the transaction ends. `NotFound` `model_not_found`."""
    return _model(await tx.lock_model(workspace, model_id), model_id)


async def version(reads: Reads, workspace: str, model_id: str, name: str) -> Version:
    """`NotFound` `model_not_found` or `version_not_found`. Without a name: the newest."""
    if name:
        found = await reads.version(workspace, model_id, name)
    else:
        found = await reads.newest_version(workspace, model_id)
    return found or await no_version(reads, workspace, model_id, name)


async def no_version(reads: Reads, workspace: str, model_id: str, name: str) -> Version:
    """Raise the `NotFound` that says what is missing: the model, or its version."""
    await model(reads, workspace, model_id)
    message = f"model {model_id} has no version {name}" if name else f"model {model_id} has no version yet"
    raise NotFound(message, code="version_not_found", model_id=model_id, version=name)


async def artifact(reads: Reads, workspace: str, digest: str) -> Artifact:
    """`NotFound` `artifact_not_found`."""
    found = await reads.artifact(workspace, digest)
    if found is None:
        raise NotFound(
            f"no artifact {digest} was uploaded to this workspace; upload it first",
            code="artifact_not_found",
            digest=digest,
        )
    return found


def _model(found: Model | None, model_id: str) -> Model:
    if found is None:
        raise NotFound(f"there is no model {model_id}", code="model_not_found", model_id=model_id)
    return found
