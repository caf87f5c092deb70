"""What is left in the folder that images are built in: by killed processes, and by executions long past."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from phantom_platform.telemetry import logs

log = logs.get(__name__)

CONTEXTS = "contexts"
LEFTOVERS = ("build-*", f"{CONTEXTS}/.context-*", "wheels/.wheels-*")


class Workroom:
    """A part of the service. Every process that builds here holds a share of the folder's lock while it lives."""

    name = "pipelines-workroom"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self._enter)

    async def stop(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _enter(self) -> None:
        """Alone here, nobody else is building: what looks begun was left by the dead."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sweep()
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def _sweep(self) -> None:
        found = [path for pattern in LEFTOVERS for path in self._folder.glob(pattern)]
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if found:
            log.info("leftovers are removed", action="workroom_swept", count=len(found))

    def prune(self, before: datetime, needed: Collection[str]) -> int:
        """Delete contexts written before then whose digest (`sha256:<64 hex>`) is not needed. How many. Blocking."""
        count = 0
        for path in (self._folder / CONTEXTS).glob("*.tar"):
            with suppress(FileNotFoundError):
                if f"sha256:{path.stem}" not in needed and path.stat().st_mtime < before.timestamp():
                    path.unlink()
                    count += 1
        return count
