"""Where a local stack keeps its files, and how they are written: whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Layout:
    """The folders below one data directory."""

    data_dir: Path

    @classmethod
    def of(cls, data_dir: Path | None) -> Layout:
        """The given directory, else $PHANTOM_DATA_DIR, else `.phantom-ml-studio` at home."""
        chosen = data_dir or os.environ.get("PHANTOM_DATA_DIR") or Path.home() / ".phantom-ml-studio"
        return cls(Path(chosen).expanduser().absolute())

    @property
    def run(self) -> Path:
        """Lock and record of each of `up`'s own children, and stack.json."""
        return self.data_dir / "run"

    @property
    def replicas(self) -> Path:
        """Launch files, locks, records and logs of the model servers."""
        return self.data_dir / "replicas"

    @property
    def scratch(self) -> Path:
        """Model servers that pipelines measure: nobody's but the control process's."""
        return self.data_dir / "scratch"

    @property
    def secrets(self) -> Path:
        """Files of mode 0600 in a folder of mode 0700."""
        return self.data_dir / "secrets"

    @property
    def stack_file(self) -> Path:
        """What runs where, for other tools."""
        return self.run / "stack.json"

    def log(self, name: str) -> Path:
        """Log file of one of `up`'s children; a replica's lies in replicas/."""
        return self.data_dir / "logs" / f"{name}.log"

    def make(self) -> None:
        """Create the folders; the data directory is its owner's alone."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.run, self.replicas, self.log("x").parent):
            folder.mkdir(exist_ok=True)
        self.secrets.mkdir(mode=0o700, exist_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write by rename with mode 0600: a reader sees the old file or the new one."""
    written = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file, indent=2)
    written.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where it is absent or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
