"""`containerization`: the build context of the version, an image of it where something here builds images, a push."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from phantom_pipelines.containers import images
from phantom_pipelines.containers.builders import Builder
from phantom_pipelines.containers.context import Context, tag
from phantom_pipelines.containers.images import Workshop
from phantom_pipelines.domain.configs.containerization import ContainerizationConfig
from phantom_pipelines.domain.values import Json
from phantom_pipelines.runners.runner import StageContext, StageResult
from phantom_platform.errors import Refused

CONTEXT_CHECK = "context"
IMAGE_CHECK = "image"
PUSH_CHECK = "push"


class Artifacts(Protocol):
    """The registry's bytes (see `GrpcRegistry.download`)."""

    async def download(self, workspace: str, digest: str, target: Path) -> None: ...


class ContainerizationRunner:
    """Runs stages of type `containerization`. Each step is kept, so that an interruption repeats the last one only."""

    def __init__(self, artifacts: Artifacts, workshop: Workshop) -> None:
        self._artifacts = artifacts
        self._workshop = workshop

    async def run(self, stage: StageContext) -> StageResult:
        config = stage.facts.config
        assert isinstance(config, ContainerizationConfig)
        must_push = self._may_push(config)
        found = await stage.check(CONTEXT_CHECK, lambda: self._context(stage, config))
        await stage.progress(0.2)
        builder, why_not = await images.find_builder(self._workshop)
        if builder is None:
            return await _without_builder(stage, found, why_not)
        built = await stage.check(IMAGE_CHECK, lambda: self._image(stage, found, builder))
        await stage.progress(0.9)
        if must_push:
            await stage.check(PUSH_CHECK, lambda: self._push(stage, found, builder))
            statement = f"{found['image']} was built and pushed"
        else:
            statement = _not_pushed(config)
            await stage.log(statement)
        return StageResult(True, result={**found, **built, "pushed": must_push, "statement": statement})

    async def undo(self, stage: StageContext) -> str:
        """An image that nobody deploys does no harm, and is there for the next execution."""
        return ""

    def _may_push(self, config: ContainerizationConfig) -> bool:
        """Refused `push_not_allowed` where the stage asks for it and the operator does not allow the registry."""
        is_allowed = bool(config.registry) and config.registry in self._workshop.push_registries
        if config.push and not is_allowed:
            raise Refused(
                f"this service may not push to {config.registry}; the operator names the registries that it may push "
                "to in PHANTOM_PIPELINES_PUSH_REGISTRIES",
                code="push_not_allowed",
            )
        return is_allowed and config.push is not False

    async def _context(self, stage: StageContext, config: ContainerizationConfig) -> Json:
        model = stage.facts.model
        with tempfile.TemporaryDirectory(prefix="phantom-containerization-") as folder:
            artifact = Path(folder) / "artifact"
            await self._artifacts.download(stage.facts.workspace, model.digest, artifact)
            made = await images.write_context(self._workshop, model, artifact, config.base_image)
        label = tag(config.tag_strategy, model.version, made.short_hash)
        await stage.log(f"the build context is {made.path} ({made.size_bytes} bytes, {made.digest})")
        return {
            "image": images.image_name(config.registry, config.image_name or model.model_id, label),
            "tag": label,
            "base_image": config.base_image,
            "context_digest": made.digest,
            "context_path": str(made.path),
            "context_bytes": made.size_bytes,
        }

    async def _image(self, stage: StageContext, found: Json, builder: Builder) -> Json:
        made = Context(found["context_digest"], Path(found["context_path"]), found["context_bytes"])

        async def say(line: str) -> None:
            if line.startswith(("STEP", "Step ", "#", "fetching")) or "rror" in line:
                await stage.log(line[:500])

        built = await images.build(self._workshop, made, builder, found["image"], say)
        await stage.log(f"{built.builder} built {built.image} ({built.image_id})")
        return {"built": True, "builder": built.builder, "image_id": built.image_id}

    async def _push(self, stage: StageContext, found: Json, builder: Builder) -> Json:
        await images.push(self._workshop, builder, found["image"])
        await stage.log(f"{builder.program} pushed {found['image']}")
        return {"image": found["image"]}


async def _without_builder(stage: StageContext, found: Json, why_not: str) -> StageResult:
    said = (
        f"No image was built: {why_not}. The build context {found['context_path']} ({found['context_digest']}) is the "
        f"result; build it with: docker build --tag {found['image']} - < {found['context_path']}"
    )
    await stage.log(said, "warning")
    return StageResult(True, result={**found, "built": False, "pushed": False, "statement": said})


def _not_pushed(config: ContainerizationConfig) -> str:
    if not config.registry:
        return "The image was not pushed: the stage names no registry"
    if config.push is False:
        return "The image was not pushed: the stage says push: false"
    return (
        f"The image was not pushed: {config.registry} is not among the registries that this service may push to "
        "(PHANTOM_PIPELINES_PUSH_REGISTRIES)"
    )
