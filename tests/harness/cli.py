"""The command line as people run it: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.people import Person
from harness.stack import Stack

SCRIPT = Path(sys.executable).with_name("phantom-ml-studio")
_WITHIN_S = 90


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as JSON; fails showing what was said instead."""
        assert self.code == 0, f"exit code {self.code}: {self.err}"
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A person's terminal, without a terminal."""

    stack: Stack
    folder: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What the commands see."""
        bin_dir = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PATH": f"{bin_dir}:{os.environ.get('PATH', '')}",
            "PHANTOM_CONFIG_DIR": str(self.folder / "config"),
            "PHANTOM_DATA_DIR": str(self.stack.data_dir),
            "NO_COLOR": "1",
            "COLUMNS": "200",
            **self.extra,
        }

    def run(self, *arguments: str | Path, stdin: str = "") -> Ran:
        """`phantom-ml-studio <arguments>`."""
        return self._ended([str(SCRIPT), *map(str, arguments)], stdin)

    def bash(self, line: str, stdin: str = "") -> Ran:
        """A line as written in a document."""
        return self._ended(["bash", "-euo", "pipefail", "-c", line], stdin)

    def python(self, code: str) -> Ran:
        """A program as written in a document."""
        return self._ended([sys.executable, "-c", code], "")

    def log_in(self, person: Person) -> Shell:
        """`auth login`."""
        done = self.run(
            "auth", "login", "--username", person.name, "--password-stdin", stdin=person.password + "\n"
        )
        assert done.code == 0, done.err
        return self

    def _ended(self, argv: list[str], stdin: str) -> Ran:
        done = subprocess.run(
            argv,
            input=stdin,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)
