"""A model server of one version for as long as a block lasts, away from every route."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from phantom_contracts.launch import EXIT_RETRY, Artifact, LaunchFile, Runtime
from phantom_contracts.schema import ModelSchema
from phantom_platform.errors import DeadlineExceeded, PhantomError, Refused, Unavailable
from phantom_platform.ids import new_id
from phantom_platform.model_servers import ModelServerFiles, spawn
from phantom_platform.telemetry import logs

log = logs.get(__name__)

NAME = "server"
"""Of a server's files in its folder."""

OWNER = "owner.lock"
"""Held by whoever started the server; once it can be taken, nobody will end the server any more."""

UNFINISHED = ".new-"
UNFINISHED_S = 60.0
"""Folders of such names are left alone for so long: their maker is about to take the lock."""

POLL_S = 0.02
DRAIN_S = 3.0
END_S = 5.0
"""How long a server may take to end before it is killed."""


@dataclass(frozen=True)
class Version:
    """What to run: one version of one model."""

    model_id: str
    version: str
    digest: str  # sha256:<64 hex>
    file_name: str
    framework: str
    model_schema: ModelSchema
    size_bytes: int = 0
    workspace: str = "default"


@dataclass(frozen=True)
class ScratchSettings:
    """Where servers are run. `folder` is private to scratch servers; callers may share it."""

    folder: Path
    artifacts_dir: Path  # the shared store, read-only
    download_dir: Path
    registry_address: str = ""  # for artifacts that are not in the store
    allow_pickle: bool = False
    threads: int = 1
    runtime: Runtime = "auto"
    ready_timeout_s: float = 120.0
    module: str = "phantom_model_server"


@dataclass(frozen=True)
class Running:
    """A server that answers plain OIP at `address` (host:port), for the name `version.model_id`."""

    version: Version
    address: str
    pid: int
    log_path: Path


@asynccontextmanager
async def running(version: Version, settings: ScratchSettings, token: str = "") -> AsyncIterator[Running]:
    """The version's server, ready; it has ended when the block is left, however that happens.

    `token` reads the artifact from the registry. Raises what the server reported: `Refused` where another start would
    fail alike (`digest_mismatch`, `corrupt_model`, ...), `Unavailable` where it may not (`registry_unavailable`,
    ...); `DeadlineExceeded` `model_server_not_ready`.
    """
    await asyncio.to_thread(end_leftovers, settings.folder)
    folder, owner = _new_folder(settings.folder)
    try:
        files = ModelServerFiles(folder, NAME, folder / "log")
        files.write_launch(_launch_file(version, settings, files, token))
        child = spawn(files, settings.module)
        try:
            yield await _ready(child, files, version, settings.ready_timeout_s)
        finally:
            await _end(child)
    finally:
        os.close(owner)
        shutil.rmtree(folder, ignore_errors=True)


def end_leftovers(folder: Path) -> int:
    """End the servers in this folder whose starter is dead, and remove their files; returns how many there were."""
    ended = 0
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        owner = None if _is_being_made(each) else _own(each)
        if owner is None:
            continue
        try:
            _kill_server(ModelServerFiles(each, NAME, each / "log"))
            shutil.rmtree(each, ignore_errors=True)
        finally:
            os.close(owner)
        log.warning("model server without a starter was ended", action="scratch_leftover", folder=str(each))
        ended += 1
    return ended


def _new_folder(root: Path) -> tuple[Path, int]:
    """A folder and the descriptor that holds its owner lock. It is renamed once it is owned: nobody finds it before."""
    name = new_id()
    unnamed = root / f"{UNFINISHED}{name}"
    unnamed.mkdir(parents=True, mode=0o700)
    owner = _own(unnamed)
    if owner is None:
        raise Unavailable(f"{unnamed} was taken by another process", code="scratch_folder_taken")
    return unnamed.rename(root / name), owner


def _is_being_made(folder: Path) -> bool:
    try:
        return folder.name.startswith(UNFINISHED) and time.time() - folder.stat().st_mtime < UNFINISHED_S
    except FileNotFoundError:
        return True


def _own(folder: Path) -> int | None:
    """The descriptor that holds the folder's owner lock; None where somebody else does, or there is no such folder."""
    try:
        handle = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _kill_server(files: ModelServerFiles) -> None:
    """At once: nothing in it is worth waiting for."""
    pid = files.locker_pid()
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _launch_file(
    version: Version, settings: ScratchSettings, files: ModelServerFiles, token: str
) -> LaunchFile:
    return LaunchFile(
        replica_id=f"scratch-{files.folder.name}",
        launch_id=files.folder.name,
        workspace=version.workspace,
        deployment_id=version.model_id,
        revision=f"{version.model_id}.0",
        model_id=version.model_id,
        model_version=version.version,
        artifact=Artifact(
            digest=version.digest,
            file_name=version.file_name,
            framework=version.framework,
            size_bytes=version.size_bytes,
        ),
        model_schema=version.model_schema,
        artifacts_dir=settings.artifacts_dir,
        download_dir=settings.download_dir,
        registry_address=settings.registry_address,
        artifact_token=token,
        lock_path=files.lock_path,
        replica_path=files.replica_path,
        drain_key=secrets.token_hex(16),
        drain_timeout_s=DRAIN_S,
        allow_pickle=settings.allow_pickle,
        threads=settings.threads,
        runtime=settings.runtime,
        log_level="INFO",
    )


async def _ready(
    child: subprocess.Popen[bytes], files: ModelServerFiles, version: Version, timeout_s: float
) -> Running:
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                status = child.poll()  # before the file: what it wrote last is then there
                said = files.read_replica()
                if said is not None and said.state == "ready":
                    return Running(version, said.address, child.pid, files.log_path)
                if status is not None:
                    code, message = (said.error_code, said.error_message) if said else ("", "")
                    raise _failure(version, status, code, message or _last_lines(files.log_path))
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the model server of {version.model_id} {version.version} was not ready within {timeout_s:g} s; its log "
            f"ends with: {_last_lines(files.log_path)}",
            code="model_server_not_ready",
            model_id=version.model_id,
            version=version.version,
        ) from None


def _failure(version: Version, status: int, code: str, message: str) -> PhantomError:
    how = f"signal {-status}" if status < 0 else f"status {status}"
    text = f"the model server of {version.model_id} {version.version} ended with {how}: {message}"
    fields = {"model_id": version.model_id, "version": version.version}
    if status == EXIT_RETRY:
        return Unavailable(text, code=code or "process_ended", **fields)  # type: ignore[arg-type]
    return Refused(text, code=code or "process_ended", **fields)


def _last_lines(path: Path, size: int = 600) -> str:
    try:
        return path.read_bytes()[-size:].decode(errors="replace").strip()
    except OSError:
        return ""


async def _end(child: subprocess.Popen[bytes]) -> None:
    """Politely first. A caller that is cancelled again in the meantime leaves no process behind either."""
    child.terminate()
    try:
        async with asyncio.timeout(END_S):
            while child.poll() is None:  # noqa: ASYNC110 - nobody announces the end of a process
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        log.warning("model server did not end, killing it", action="scratch_kill", pid=child.pid)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
