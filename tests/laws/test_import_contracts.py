"""Each import contract can break: a forbidden contract that matches no module would be kept for ever."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [path.parent for path in ROOT.glob("libs/*/pyproject.toml")]
PACKAGES += [path.parent for path in ROOT.glob("services/*/pyproject.toml")]
PACKAGES += [ROOT / "deploy" / "local", ROOT / "demo"]

# Contract (the start of its name) → a module and the import that must not be there.
PLANTED = {
    "(1) Services": ("services/registry/phantom_registry/rpc.py", "import phantom_deployer"),
    "(2) Domains": ("services/monitor/phantom_monitor/domain/counts.py", "import asyncio"),
    "(3) A service's rooms": (
        "services/governance/phantom_governance/service.py",
        "import phantom_governance.rpc",
    ),
    "(4) Libraries": ("libs/contracts/phantom_contracts/topics.py", "import phantom_platform.errors"),
    "(4) The SDK": ("libs/sdk/phantom_ml_studio/registry.py", "import aiokafka"),
    "(4) platform.testing": (
        "services/monitor/phantom_monitor/app.py",
        "import phantom_platform.testing.clock",
    ),
    # A module that is none of the rooms.
    "(5) SQL": ("services/deployer/phantom_deployer/local_backend.py", "import asyncpg"),
}


def lint(tree: Path, config: Path) -> str:
    roots = [str(tree / package.relative_to(ROOT)) for package in PACKAGES]
    # Before the site-packages' path files, which name the real checkout.
    code = f"import sys; sys.path[:0] = {roots!r}; from importlinter.cli import lint_imports; "
    code += f"sys.exit(lint_imports(config_filename={str(config)!r}, no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tree, env=dict(os.environ)
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    tree = tmp_path_factory.mktemp("planted")
    for package in PACKAGES:
        shutil.copytree(
            package, tree / package.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__")
        )
    for module, violation in PLANTED.values():
        path = tree / module
        text = path.read_text()
        marker = "from __future__ import annotations\n"
        assert marker in text or text.startswith('"""'), module
        path.write_text(
            text.replace(marker, f"{marker}\n{violation}\n", 1) if marker in text else f"{violation}\n{text}"
        )
    return lint(tree, ROOT / ".importlinter")


@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_violation_breaks_the_contract(broken: str, contract: str) -> None:
    lines = [
        line for line in broken.splitlines() if line.startswith(contract) and re.search("KEPT|BROKEN", line)
    ]
    assert lines, broken
    assert "BROKEN" in lines[0], broken


def test_every_contract_is_planted(broken: str) -> None:
    # Some say after it how many imports they ignore.
    found = re.finditer(r"^(.+) (KEPT|BROKEN)( \(.*\))?$", broken, re.MULTILINE)
    named = {each[1] for each in found}
    assert len(named) == len(PLANTED), named
