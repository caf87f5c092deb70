"""Our own code that goes into an image: the model server and the packages below it, without their tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from phantom_platform.errors import Refused

# Found, never imported: services do not import one another, and nothing here runs them.
PACKAGES = (
    "buf",
    "inference",
    "phantom",
    "phantom_contracts",
    "phantom_model_server",
    "phantom_platform",
    "phantom_runtimes",
)
_LEFT_OUT = frozenset(["tests", "testing", "__pycache__"])
_SUFFIXES = frozenset([".py", ".typed"])


def files() -> Iterator[tuple[str, bytes]]:
    """(path below src/, content) of every file. Refused `package_not_found` where a package is not installed."""
    for package in PACKAGES:
        root = _root(package)
        for path in sorted(root.rglob("*")):
            below = path.relative_to(root)
            if path.suffix in _SUFFIXES and path.is_file() and not _LEFT_OUT & set(below.parts):
                yield f"{package}/{below.as_posix()}", path.read_bytes()


def _root(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise Refused(
            f"the package {package} is not installed here, and an image needs it", code="package_not_found"
        )
    return Path(next(iter(found.submodule_search_locations)))
