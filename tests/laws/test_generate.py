"""The stubs are the same where the rules of the protos come out of a wheel, on a machine without Maven."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_stubs_do_not_depend_on_where_the_rules_come_from(tmp_path: Path) -> None:
    for folder in ("proto", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "libs/contracts").mkdir(parents=True)
    (tmp_path / "libs/sdk/phantom_ml_studio").mkdir(parents=True)
    environment = os.environ | {"PYTHON": sys.executable, "PHANTOM_CACHE_DIR": str(tmp_path / "nothing")}
    subprocess.run(["bash", "tools/generate.sh"], cwd=tmp_path, env=environment, check=True, timeout=120)
    ours = {
        p.relative_to(ROOT): p.read_bytes() for p in (ROOT / "libs/contracts/phantom").rglob("*_pb2*.py*")
    }
    ours = {path: text for path, text in ours.items() if "__pycache__" not in path.parts}
    assert ours
    assert {path: (tmp_path / path).read_bytes() for path in ours} == ours
