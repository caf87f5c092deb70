"""Environments of the peers: `.phantom/bench/peers/<name>`, made from `<name>/requirements.lock` when first wanted.

The locks come from `peers/lock.sh`. They are complete: pip resolves nothing (`--no-deps`), since two peers ask for
`xgboost` where `xgboost-cpu`, the same package without 500 MB of GPU libraries, is what they get.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from harness.model import FOLDER
from harness.system import CannotMeasure

HERE = Path(__file__).parent
ENVIRONMENTS = FOLDER / "peers"
INSTALL_LIMIT_S = 1200


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment; makes the environment where it is missing or its lock changed."""
    folder, lock = ENVIRONMENTS / name, HERE / name / "requirements.lock"
    python, stamp = folder / "bin" / "python", folder / ".lock"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], name)
        install = [
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ]
        _run([str(python), *install, "-r", str(lock)], name)
        stamp.write_text(wanted)
    return python


def _run(command: list[str], name: str) -> None:
    print(f"peers: {name}: {' '.join(command[1:4])} …", file=sys.stderr)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as slow:
        raise CannotMeasure(f"{name} was not installed within {INSTALL_LIMIT_S} s") from slow
    if done.returncode:
        raise CannotMeasure(f"{name} cannot be installed: {(done.stderr or done.stdout).strip()[-1500:]}")
