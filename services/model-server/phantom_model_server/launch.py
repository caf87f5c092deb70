"""The launch file, the lock and the replica file: where deployer and model server meet (`phantom_contracts.launch`)."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import time
from pathlib import Path

from pydantic import ValidationError

from phantom_contracts.launch import LOCK_RETRY_S, LaunchFile, ReplicaFile
from phantom_platform.errors import Invalid, Refused

PROBE_INTERVAL_S = 0.02


def read(path: Path) -> LaunchFile:
    """The launch file. Invalid `launch_file_invalid` that says which field is wrong."""
    try:
        return LaunchFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Invalid(
            f"the launch file {path} cannot be read: {error.strerror}; the deployer writes it before it starts a "
            "model server",
            code="launch_file_invalid",
        ) from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:5])
        raise Invalid(f"the launch file {path} is not valid: {wrong}", code="launch_file_invalid") from error


class Lock:
    """The exclusive lock on a replica's id, held until the process has exited."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab")

    def take(self) -> None:
        """Refused `replica_running` where another process keeps it for longer than a probe takes."""
        until = time.monotonic() + LOCK_RETRY_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() >= until:
                    raise Refused(
                        f"another process holds {self.path}: this replica runs already",
                        code="replica_running",
                    ) from error
                time.sleep(PROBE_INTERVAL_S)
        # So that whoever adopts this process can stop it before it has written its replica file.
        self._file.truncate(0)
        self._file.write(b"%d\n" % os.getpid())
        self._file.flush()


def write(path: Path, replica: ReplicaFile) -> None:
    """Write the replica file: readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(replica.model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
