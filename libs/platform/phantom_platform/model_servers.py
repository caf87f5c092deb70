"""Starting model servers as processes of this machine: their files (phantom_contracts.launch) and the spawn.

They are sessions of their own, with a file for output and no pipe to us, so they outlive whoever started them and are
found again by their locks.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from phantom_contracts.launch import LaunchFile, ReplicaFile

# What a model server may inherit: never a DSN, a password or a token.
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
)
_INHERITED_PREFIXES = ("PYTHON", "OMP_", "OPENBLAS_", "MKL_")


class ModelServerFiles:
    """The files of one model server: `<name>.launch.json`, `.lock` and `.json` in a folder, and its log."""

    def __init__(self, folder: Path, name: str, log_path: Path) -> None:
        self.folder = folder
        self.name = name
        self.log_path = log_path

    @property
    def launch_path(self) -> Path:
        return self.folder / f"{self.name}.launch.json"

    @property
    def unfinished_path(self) -> Path:
        """A launch file that is being written."""
        return self.folder / f"{self.name}.launch.new"

    @property
    def lock_path(self) -> Path:
        return self.folder / f"{self.name}.lock"

    @property
    def replica_path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def prepare(self) -> None:
        for folder in (self.folder, self.log_path.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def is_locked(self) -> bool:
        """Whether a process holds the lock. Takes a shared one for an instant, which its owner expects."""
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


def spawn(files: ModelServerFiles, module: str = "phantom_model_server") -> subprocess.Popen[bytes]:
    """`python -m <module> --launch <file>`, the launch file being written."""
    with files.log_path.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", module, "--launch", str(files.launch_path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=files.folder,
            env=_environment(),
        )


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
