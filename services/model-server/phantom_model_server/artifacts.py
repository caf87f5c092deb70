"""The artifact's bytes: from the shared store, from what was fetched before, or from the registry; always checked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import grpc

from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1 import registry_service_pb2_grpc as stubs
from phantom_contracts.launch import LaunchFile
from phantom_model_server.failures import of_artifact
from phantom_platform.errors import Invalid, NotFound, PhantomError, Refused, Unavailable
from phantom_platform.telemetry import logs
from phantom_runtimes import Invalid as InvalidArtifact
from phantom_runtimes import verify_digest

log = logs.get(__name__)

_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL)
_NOT_ALLOWED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


async def find(launch: LaunchFile, timeout_s: float) -> Path:
    """A file whose sha256 was checked.

    Raises Invalid `digest_mismatch`, NotFound `artifact_not_found`, Refused `artifact_token_refused`, Unavailable
    `registry_unavailable`.
    """
    sha256 = launch.artifact.digest.removeprefix("sha256:")
    shared = _place(launch.artifacts_dir, sha256)
    if shared.is_file():
        _check(shared, sha256)
        return shared
    fetched = _place(launch.download_dir, sha256)
    if fetched.is_file():
        try:
            _check(fetched, sha256)
            return fetched
        except Invalid as error:
            log.warning(
                "fetched artifact is damaged, fetching again", action="artifact_damaged", error=str(error)
            )
            fetched.unlink(missing_ok=True)
    if not launch.registry_address:
        raise NotFound(
            f"the artifact {launch.artifact.digest} is not in {launch.artifacts_dir}, and there is no registry to ask",
            code="artifact_not_found",
            digest=launch.artifact.digest,
        )
    await _download(launch, sha256, fetched, timeout_s)
    return fetched


def _place(root: Path, sha256: str) -> Path:
    return root / "sha256" / sha256[:2] / sha256


def _check(path: Path, sha256: str) -> None:
    try:
        verify_digest(path, sha256)
    except InvalidArtifact as error:
        raise of_artifact(error) from error


async def _download(launch: LaunchFile, sha256: str, target: Path, timeout_s: float) -> None:
    digest = hashlib.sha256()
    options = [("grpc.max_receive_message_length", -1)]
    with _whole_or_nothing(target) as file:
        try:
            async with grpc.aio.insecure_channel(launch.registry_address, options=options) as channel:
                stream = stubs.RegistryServiceStub(channel).DownloadArtifact(
                    pb.DownloadArtifactRequest(digest=launch.artifact.digest),
                    metadata=(("authorization", f"Bearer {launch.artifact_token}"),),
                    timeout=timeout_s,
                )
                async for part in stream:
                    digest.update(part.chunk)
                    file.write(part.chunk)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, launch) from error
        if digest.hexdigest() != sha256:
            raise Invalid(
                f"the registry sent an artifact with sha256 {digest.hexdigest()}, but {sha256} was registered; it is "
                "not loaded",
                code="digest_mismatch",
                expected=sha256,
                found=digest.hexdigest(),
            )
    log.info("artifact fetched", action="artifact_fetched", digest=launch.artifact.digest)


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[BinaryIO]:
    """A file beside the target that takes its place when the block ends well, and is gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:12]}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _translated(error: grpc.aio.AioRpcError, launch: LaunchFile) -> PhantomError:
    where = f"the registry at {launch.registry_address}"
    said = (error.details() or error.code().name)[:300]
    if error.code() in _AWAY:
        return Unavailable(f"{where} cannot be reached: {said}", code="registry_unavailable")
    if error.code() in _NOT_ALLOWED:
        return Refused(f"{where} refuses the launch file's token: {said}", code="artifact_token_refused")
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return NotFound(
            f"{where} has no artifact {launch.artifact.digest}: {said}", code="artifact_not_found"
        )
    return Unavailable(f"{where} answered {error.code().name}: {said}", code="registry_unavailable")
