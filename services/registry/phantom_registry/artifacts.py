"""Artifact bytes on the local disk, by content: `<root>/sha256/<2 hex>/<64 hex>`, read-only once they are there.

Whoever sees a file under its final name sees all of it: bytes go to a locked temporary file, which is synced and
renamed only after its digest was found to be the announced one. A leftover of a killed process is not locked any
more and is removed at the next start.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from phantom_platform.errors import Exhausted, Invalid, NotFound, PhantomError, Refused, Violation
from phantom_platform.ids import new_id
from phantom_platform.telemetry import logs
from phantom_registry.domain.values import Artifact
from phantom_registry.metrics import Metrics
from phantom_runtimes import Invalid as UnknownFormat
from phantom_runtimes import sniff

log = logs.get(__name__)
T = TypeVar("T")
CHUNK_BYTES = 1024 * 1024


class LocalArtifacts:
    """The store under `root`. A part: its start makes the folders and clears what killed uploads left."""

    name = "artifacts"

    def __init__(self, root: Path, *, max_bytes: int, min_free_bytes: int, metrics: Metrics) -> None:
        self._files = root / "sha256"
        self._incoming = root / "incoming"
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._metrics = metrics

    async def start(self) -> None:
        await asyncio.to_thread(self._prepare)

    async def stop(self) -> None:
        """Uploads end with their calls; nothing is open here."""

    def path(self, digest: str) -> Path:
        """Where the bytes of `sha256:<hex>` are, if they are."""
        hexes = digest.removeprefix("sha256:")
        return self._files / hexes[:2] / hexes

    async def receive(self, announced: Artifact, chunks: AsyncIterator[bytes]) -> None:
        """Store the bytes durably; on any failure, or when cancelled, nothing is left.

        `Exhausted` `artifact_too_large`, `disk_full`; `Invalid` `size_mismatch`, `digest_mismatch`. Bytes that
        are here already are replaced by the same ones, so that uploading again mends a damaged file.
        """
        outcome = "aborted"
        try:
            self._check_room(announced.size_bytes)
            incoming = await _in_thread(_Incoming, self._incoming / new_id(), announced)
            try:
                async for chunk in chunks:
                    self._metrics.received_bytes.inc(len(chunk))
                    await _in_thread(incoming.write, chunk)
                await _in_thread(incoming.finish, self.path(announced.digest))
            finally:
                await _in_thread(incoming.discard)
            outcome = "stored"
        except PhantomError:
            outcome = "refused"
            raise
        finally:
            self._metrics.uploads.labels(outcome).inc()

    async def check_intact(self, artifact: Artifact) -> None:
        """`Refused` `artifact_missing` or `artifact_damaged` unless the bytes are here and have their digest."""
        found = await _in_thread(_digest_of, self.path(artifact.digest))
        if found is None:
            raise Refused(
                f"the artifact {artifact.digest} is not in the store any more; upload it again",
                code="artifact_missing",
                digest=artifact.digest,
            )
        if found != artifact.digest:
            raise Refused(
                f"the file of artifact {artifact.digest} has become {found}; upload it again",
                code="artifact_damaged",
                digest=artifact.digest,
                found=found,
            )

    async def format_of(self, artifact: Artifact) -> str:
        """The format by content. `Refused` `artifact_missing`; `Invalid` where it is none that can be served."""
        try:
            return await _in_thread(sniff, self.path(artifact.digest))
        except FileNotFoundError as error:
            raise Refused(
                f"the artifact {artifact.digest} is not in the store any more; upload it again",
                code="artifact_missing",
                digest=artifact.digest,
            ) from error
        except UnknownFormat as error:
            violation = Violation("version.digest", error.message)
            raise Invalid(code=error.code, violations=[violation], digest=artifact.digest) from error

    async def open(self, artifact: Artifact) -> AsyncIterator[bytes]:
        """The bytes in chunks. `NotFound` `artifact_missing` before the first one."""
        try:
            file: BinaryIO = await _in_thread(self.path(artifact.digest).open, "rb")
        except FileNotFoundError as error:
            raise NotFound(
                f"the artifact {artifact.digest} is not in the store any more; upload it again",
                code="artifact_missing",
                digest=artifact.digest,
            ) from error
        return _chunks(file)

    def _check_room(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise Exhausted(
                f"the artifact has {size_bytes} bytes; at most {self._max_bytes} are taken "
                "(PHANTOM_REGISTRY_MAX_ARTIFACT_BYTES)",
                code="artifact_too_large",
                size_bytes=size_bytes,
                limit_bytes=self._max_bytes,
            )
        free = shutil.disk_usage(self._incoming).free
        if size_bytes + self._min_free_bytes > free:
            raise Exhausted(
                f"the artifact has {size_bytes} bytes and the disk {free} free, of which {self._min_free_bytes} "
                "stay so (PHANTOM_REGISTRY_MIN_FREE_BYTES); make room",
                code="disk_full",
                size_bytes=size_bytes,
                free_bytes=free,
            )

    def _prepare(self) -> None:
        self._files.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        for path in self._incoming.iterdir():
            with path.open("rb") as file:
                if not _lock(file):
                    continue  # another process is writing it
                path.unlink(missing_ok=True)
                log.info("removed a broken-off upload", action="upload_cleared", file=path.name)


class _Incoming:
    """One upload on its way. Blocking; used by one thread at a time."""

    def __init__(self, path: Path, announced: Artifact) -> None:
        self._path = path
        self._announced = announced
        self._hash = hashlib.sha256()
        self._received = 0
        self._file = path.open("xb")
        _lock(self._file)

    def write(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._announced.size_bytes:
            raise self._wrong_size(f"more than the {self._announced.size_bytes} bytes announced have come")
        self._hash.update(chunk)
        self._file.write(chunk)

    def finish(self, target: Path) -> None:
        """Check, sync, rename."""
        if self._received != self._announced.size_bytes:
            raise self._wrong_size(
                f"{self._received} of {self._announced.size_bytes} announced bytes have come"
            )
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._announced.digest:
            raise Invalid(
                f"the bytes have the digest {found}, and {self._announced.digest} was announced; send them again",
                code="digest_mismatch",
                violations=[Violation("header.digest", f"the bytes that came have {found}")],
                digest=self._announced.digest,
                found=found,
            )
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        target.parent.mkdir(exist_ok=True)
        self._path.replace(target)
        # The rename lasts once its folder does, and the folder once the one above it does.
        for folder in (target.parent, target.parent.parent):
            _sync_folder(folder)

    def discard(self) -> None:
        """Remove what was not renamed."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _wrong_size(self, description: str) -> Invalid:
        return Invalid(code="size_mismatch", violations=[Violation("header.size_bytes", description)])


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while chunk := await _in_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run it in a thread. A cancelled caller waits for its end, so that nobody closes a file under a writer."""
    running = asyncio.get_running_loop().run_in_executor(None, function, *args)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _digest_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except FileNotFoundError:
        return None


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
