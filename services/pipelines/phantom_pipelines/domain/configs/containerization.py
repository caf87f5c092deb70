"""`containerization`: an image that serves this version."""

from __future__ import annotations

import re
from dataclasses import dataclass

from phantom_pipelines.domain.reading import Reader

TAG_STRATEGIES = ("version+hash", "version", "hash")
DEFAULT_BASE_IMAGE = "python:3.11-slim"

_IMAGE = re.compile(
    r"[a-z0-9]+([._/-]+[a-z0-9]+)*(:[0-9]+/[a-z0-9._/-]+)?(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_NAME = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*")
_REGISTRY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._/-]+)?")


@dataclass(frozen=True)
class ContainerizationConfig:
    """An empty `image_name`: the model's id. An empty `registry`: built, not pushed."""

    base_image: str = DEFAULT_BASE_IMAGE
    registry: str = ""
    image_name: str = ""
    # `version+hash`: <version>-<first 12 of the build context's digest>.
    tag_strategy: str = "version+hash"
    # None: pushed where the operator lets this service push to the registry.
    push: bool | None = None

    @classmethod
    def read(cls, reader: Reader) -> ContainerizationConfig:
        found = cls(
            base_image=reader.text("base_image") or DEFAULT_BASE_IMAGE,
            registry=reader.text("registry"),
            image_name=reader.text("image_name", longest=200),
            tag_strategy=reader.choice("tag_strategy", TAG_STRATEGIES, "version+hash"),
            push=reader.flag("push") if reader.has("push") else None,
        )
        reader.flag("push")  # a known name, given or not
        if found.push and not found.registry:
            reader.wrong("push", "is true, and no registry is named to push to")
        patterns = {"base_image": (_IMAGE, found.base_image), "registry": (_REGISTRY, found.registry)}
        patterns["image_name"] = (_NAME, found.image_name)
        for name, (pattern, value) in patterns.items():
            if value and not pattern.fullmatch(value):
                reader.wrong(name, f"is {value!r}, which is no {name.replace('_', ' ')}")
        return found
