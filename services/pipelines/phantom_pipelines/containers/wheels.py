"""The packages of an image, fetched before its build by this process's own pip, from its own index."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from phantom_pipelines.containers.commands import Say, quiet, run
from phantom_platform.errors import Refused

NEEDED = "requirements.txt"

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""What the wheels are for."""


async def fetch(requirements: str, folder: Path, *, timeout_s: float, say: Say = quiet) -> Path:
    """A folder with every wheel of the requirements, kept below `folder` for the next build.

    Wheels are for this process's Python, so the base image needs the same minor version. Refused `wheels_unavailable`
    with pip's last lines where one cannot be had.
    """
    done = folder / f"cp{PYTHON.replace('.', '')}-{hashlib.sha256(requirements.encode()).hexdigest()[:32]}"
    if done.is_dir():
        return done
    stage = _stage(folder, requirements)
    try:
        needed = stage / NEEDED
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += [
            "--only-binary",
            ":all:",
            "--require-hashes",
            "--dest",
            str(stage),
            "--requirement",
            str(needed),
        ]
        ended = await run(command, timeout_s=timeout_s, say=say)
        if not ended.is_ok:
            raise Refused(
                f"the packages of the image cannot be fetched: {ended.tail[-1500:]}",
                code="wheels_unavailable",
            )
        _keep(stage, done)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return done


def _stage(folder: Path, requirements: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".wheels-", dir=folder))
    (stage / NEEDED).write_text(requirements)
    return stage


def _keep(stage: Path, done: Path) -> None:
    (stage / NEEDED).unlink()
    with contextlib.suppress(OSError):  # another stage was here first, with the same wheels
        stage.rename(done)
    if not done.is_dir():
        raise Refused(f"the packages of the image cannot be kept in {done}", code="wheels_unavailable")


def place(wheels: Path, target: Path) -> None:
    """The wheels into a context's folder: linked where that is possible, else copied."""
    for wheel in wheels.iterdir():
        try:
            os.link(wheel, target / wheel.name)
        except OSError:
            shutil.copyfile(wheel, target / wheel.name)
