"""The files by which the deployer and its model servers know each other (phantom_contracts.launch)."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from phantom_contracts.launch import LaunchFile, ReplicaFile


@dataclass(frozen=True)
class ReplicaFiles:
    """Files of one replica below the data directory."""

    data_dir: Path
    replica_id: str

    @property
    def folder(self) -> Path:
        return self.data_dir / "replicas"

    @property
    def launch_path(self) -> Path:
        return self.folder / f"{self.replica_id}.launch.json"

    @property
    def unfinished_path(self) -> Path:
        """A launch file that is being written."""
        return self.folder / f"{self.replica_id}.launch.new"

    @property
    def lock_path(self) -> Path:
        return self.folder / f"{self.replica_id}.lock"

    @property
    def replica_path(self) -> Path:
        return self.folder / f"{self.replica_id}.json"

    @property
    def log_path(self) -> Path:
        return self.data_dir / "logs" / f"replica-{self.replica_id}.log"

    def prepare(self) -> None:
        for folder in (self.folder, self.log_path.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def is_locked(self) -> bool:
        """Whether a process holds the replica's lock. Takes a shared one for an instant, which its owner expects."""
        try:
            handle = os.open(self.lock_path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def locker_pid(self) -> int:
        """The process that holds the lock, as it wrote itself; 0 where none does, or it has not yet."""
        if not self.is_locked():
            return 0
        try:
            return int(self.lock_path.read_text("ascii").strip() or 0)
        except (OSError, ValueError):
            return 0

    def write_launch(self, launch: LaunchFile) -> None:
        """By rename, readable by us alone: it holds secrets. What an earlier life wrote is removed first."""
        self.prepare()
        self.replica_path.unlink(missing_ok=True)
        new = self.unfinished_path
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(launch.model_dump_json(indent=1))
            file.flush()
            os.fsync(handle)
        new.replace(self.launch_path)

    def read_launch(self) -> LaunchFile | None:
        """None where it is missing or not readable."""
        try:
            return LaunchFile.model_validate_json(self.launch_path.read_bytes())
        except (OSError, ValidationError):
            return None

    def read_replica(self) -> ReplicaFile | None:
        """What the process said of itself; None where it said nothing that can be read."""
        try:
            return ReplicaFile.model_validate_json(self.replica_path.read_bytes())
        except (OSError, ValidationError):
            return None

    def remove(self) -> None:
        """Once the process has ended for good. Its log stays."""
        for path in (self.launch_path, self.unfinished_path, self.replica_path, self.lock_path):
            with suppress(OSError):
                path.unlink()


def known_replicas(data_dir: Path) -> list[str]:
    """Ids of all replicas that left a lock here, or a launch file: a start may fail before there is a lock."""
    folder, traces = data_dir / "replicas", (".lock", ".launch.json", ".launch.new")
    return sorted({path.name.removesuffix(trace) for trace in traces for path in folder.glob(f"*{trace}")})
