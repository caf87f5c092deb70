"""From a version to an image, or to a context where nothing here builds images."""

from __future__ import annotations

import asyncio
import shutil
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phantom_pipelines.containers import builders, context, wheels
from phantom_pipelines.containers.builders import Builder, Order
from phantom_pipelines.containers.commands import Say, quiet
from phantom_pipelines.containers.context import Context
from phantom_pipelines.containers.requirements import find_lock
from phantom_pipelines.domain.values import ModelVersion
from phantom_platform.errors import Refused

Packages = Literal["vendor", "index"]


@dataclass(frozen=True)
class Workshop:
    """Where and how this process builds. Times are seconds."""

    folder: Path
    lock: Path | None = None  # None: the checkout's
    builder: builders.Choice = "auto"
    options: tuple[str, ...] = ()
    packages: Packages = "vendor"
    build_timeout_s: float = 1800.0
    push_timeout_s: float = 900.0
    push_registries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """An image in the builder's store; `image_id` as the builder names it."""

    image: str
    builder: str
    image_id: str


def image_name(registry: str, name: str, tag: str) -> str:
    """`<registry>/<name>:<tag>`; without a registry `localhost/…`, which no builder takes for somebody else's."""
    return f"{registry or 'localhost'}/{name}:{tag}"


async def write_context(workshop: Workshop, model: ModelVersion, artifact: Path, base_image: str) -> Context:
    """See `context.write`."""
    lock = workshop.lock or find_lock()
    return await asyncio.to_thread(
        context.write, model, artifact, base_image, lock, workshop.folder / "contexts"
    )


async def find_builder(workshop: Workshop) -> tuple[Builder | None, str]:
    """See `builders.find`."""
    return await builders.find(workshop.builder, workshop.options)


async def build(workshop: Workshop, made: Context, builder: Builder, image: str, say: Say = quiet) -> Built:
    """Build the context.

    Refused `context_missing`, `wheels_unavailable`, `image_not_built` with the builder's last lines.
    """
    if not await asyncio.to_thread(made.path.is_file):
        raise Refused(
            f"the build context {made.path} was deleted; run the pipeline again", code="context_missing"
        )
    arguments: list[tuple[str, str]] = []
    fetched = None
    if workshop.packages == "vendor":
        await say(f"fetching the image's packages for Python {wheels.PYTHON}")
        needed = await asyncio.to_thread(made.requirements)
        fetched = await wheels.fetch(
            needed, workshop.folder / "wheels", timeout_s=workshop.build_timeout_s, say=say
        )
        arguments += [("PIP_NO_INDEX", "1"), ("WHEELS_PYTHON", wheels.PYTHON)]
    await asyncio.to_thread(_sweep, workshop)
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=workshop.folder))
    try:
        await asyncio.to_thread(_unpack, made, folder / "context", fetched)
        order = Order(folder / "context", image, tuple(arguments), _labels(made, image))
        ended = await builder.build(order, folder / "id", timeout_s=workshop.build_timeout_s, say=say)
        if not ended.is_ok:
            raise Refused(
                f"{builder.program} did not build the image: {_cause(ended.lines)}", code="image_not_built"
            )
        return Built(image, builder.program, (folder / "id").read_text().strip())
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def push(workshop: Workshop, builder: Builder, image: str, say: Say = quiet) -> None:
    """Push it. Refused `image_not_pushed` with the builder's last lines."""
    ended = await builder.push(image, timeout_s=workshop.push_timeout_s, say=say)
    if not ended.is_ok:
        raise Refused(
            f"{builder.program} did not push {image}: {_cause(ended.lines)}", code="image_not_pushed"
        )


def _sweep(workshop: Workshop) -> None:
    """Folders of builds that were killed; none lives longer than fetching and building may take."""
    workshop.folder.mkdir(parents=True, exist_ok=True)
    for folder in workshop.folder.glob("build-*"):
        if folder.stat().st_mtime < time.time() - 2 * workshop.build_timeout_s:
            shutil.rmtree(folder, ignore_errors=True)


def _unpack(made: Context, folder: Path, fetched: Path | None) -> None:
    folder.mkdir()
    with tarfile.open(made.path) as archive:
        for member in archive:  # we wrote it: plain files with plain names
            content = archive.extractfile(member)
            assert content is not None
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(content, target)
    if fetched is not None:
        wheels.place(fetched, folder / "wheels")


def _labels(made: Context, image: str) -> tuple[tuple[str, str], ...]:
    return (
        ("org.opencontainers.image.title", image.rpartition("/")[2].partition(":")[0]),
        ("io.phantom.context-digest", made.digest),
    )


def _cause(lines: Sequence[str]) -> str:
    """The line that says why, first, then the last ones: builders end in words of their own."""
    telling = [line for line in lines if "needs Python" in line or line.lower().startswith(("error", "e: "))]
    return " | ".join(dict.fromkeys([*telling[:2], *lines[-4:]]))[:1500]
