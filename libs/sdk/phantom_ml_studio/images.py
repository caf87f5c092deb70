"""Which registered version a container image holds. The local backend serves registered artifacts, never images."""

from __future__ import annotations

from collections.abc import Iterator

from phantom_ml_studio.client import Client
from phantom_ml_studio.errors import Forbidden, Refused, Unsupported
from phantom_ml_studio.pipelines import DeploymentPipeline
from phantom_ml_studio.registry import ModelRegistry


def version_of_image(client: Client, model_id: str, image: str) -> str:
    """The version whose metadata name the image (`image`), or whose pipeline built it.

    Errors: NotFound `model_not_found`; Refused `unknown_image`, `image_ambiguous`.
    """
    registered = {
        version.version
        for version in ModelRegistry(client).list_versions(model_id)
        if version.metadata.get("image") == image
    }
    found = registered or set(_built(client, model_id, image))
    if len(found) == 1:
        return found.pop()
    if found:
        raise Refused(
            f"{image} stands for versions {', '.join(sorted(found))} of {model_id}: name one with --version instead",
            code="image_ambiguous",
        )
    raise Refused(
        f"no version of {model_id} is known to be in the image {image}, and what is served is a registered version, "
        f"not an image: register it with `models register {model_id} --version ... --image {image}`, build it by a "
        "pipeline's containerization stage, or deploy with --version",
        code="unknown_image",
    )


def _built(client: Client, model_id: str, image: str) -> Iterator[str]:
    """Versions for which a pipeline's containerization made it."""
    try:
        executions = DeploymentPipeline(client).list_executions()
    except (Forbidden, Unsupported):  # who may not see pipelines still may name what is registered
        return
    for execution in executions:
        stages = [s for s in execution.stages if s.type == "containerization" and s.phase == "succeeded"]
        if execution.model_id == model_id and any(s.result.get("image") == image for s in stages):
            yield execution.model_version
