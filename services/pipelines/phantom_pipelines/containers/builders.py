"""What builds and pushes images on this machine: docker or buildah, whichever works."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phantom_pipelines.containers.commands import Ended, Say, quiet, run

Choice = Literal["auto", "docker", "buildah", "none"]
PROBE_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Order:
    """One build: a context's folder, the image's full name, build arguments and labels."""

    folder: Path
    image: str
    arguments: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Builder:
    """A program that builds images. `options` go with every build, as the operator set them."""

    program: Literal["docker", "buildah"]
    options: tuple[str, ...] = ()

    async def build(self, order: Order, id_file: Path, *, timeout_s: float, say: Say = quiet) -> Ended:
        """Build and tag the image; its id is written to `id_file`."""
        # Docker's health check is no part of an OCI image, so buildah is told to make one of docker's format; it lets
        # go of a failed build's container only without its cache, which a single layer has no use for.
        command = {
            "docker": ["docker", "build", "--force-rm"],
            "buildah": ["buildah", "bud", "--format", "docker", "--no-cache", "--force-rm"],
        }[self.program]
        command += [*self.options, "--iidfile", str(id_file), "--tag", order.image]
        for name, value in order.arguments:
            command += ["--build-arg", f"{name}={value}"]
        for name, value in order.labels:
            command += ["--label", f"{name}={value}"]
        return await run([*command, str(order.folder)], timeout_s=timeout_s, say=say)

    async def push(self, image: str, *, timeout_s: float, say: Say = quiet) -> Ended:
        """Push the image to the registry that its name begins with, with the credentials that the program keeps."""
        target = [image] if self.program == "docker" else [image, f"docker://{image}"]
        return await run([self.program, "push", *target], timeout_s=timeout_s, say=say)


async def find(choice: Choice, options: tuple[str, ...] = ()) -> tuple[Builder | None, str]:
    """The builder, or None and why there is none. docker comes first: people look there."""
    if choice == "none":
        return None, "the setting PHANTOM_PIPELINES_BUILDER is none"
    reasons = []
    programs: tuple[Literal["docker", "buildah"], ...] = ("docker", "buildah")
    for program in programs:
        if choice not in ("auto", program):
            continue
        why = await _why_not(program)
        if not why:
            return Builder(program, options), ""
        reasons.append(why)
    return None, "; ".join(reasons)


async def _why_not(program: str) -> str:
    if not shutil.which(program):
        return f"{program} is not installed"
    asked = ["version", "--format", "{{.Server.Version}}"] if program == "docker" else ["--version"]
    ended = await run([program, *asked], timeout_s=PROBE_TIMEOUT_S)
    return "" if ended.is_ok else f"{program} does not answer ({' '.join(ended.lines[-1:])[:200]})"
