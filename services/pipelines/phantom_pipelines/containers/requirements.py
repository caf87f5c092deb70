"""The packages that a model server needs, out of the project's own lock: the same versions, pinned by hash."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from phantom_platform.errors import Refused

LOCK_NAME = "requirements.lock"
_SERVER = (
    "aiohttp",
    "googleapis-common-protos",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "hpack",
    "numpy",
    "opentelemetry-api",
    "orjson",
    "prometheus-client",
    "protobuf",
    "pydantic",
    "pydantic-settings",
    "structlog",
    "uvloop",
)
_FRAMEWORKS = {
    "xgboost": ("xgboost-cpu",),
    "onnx": ("onnx", "onnxruntime"),
    "scikit-learn": ("scikit-learn", "skops"),
}
_NAME = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==")


@dataclass(frozen=True)
class _Locked:
    name: str
    lines: tuple[str, ...]  # the requirement and its hashes
    parents: frozenset[str]  # who needs it


def find_lock(start: Path = Path(__file__)) -> Path:
    """The lock of the checkout that this package stands in. Refused `no_requirements_lock` where it is in none."""
    for folder in start.resolve().parents:
        if (folder / LOCK_NAME).is_file():
            return folder / LOCK_NAME
    raise Refused(
        f"there is no {LOCK_NAME} above {start}; name it in PHANTOM_PIPELINES_REQUIREMENTS_LOCK",
        code="no_requirements_lock",
    )


def requirements(lock: Path, framework: str) -> str:
    """requirements.txt for a server of this framework: what it imports, and all that this needs in turn."""
    roots = _FRAMEWORKS.get(framework)
    if roots is None:
        raise Refused(
            f"there is no model server for {framework!r}; there is one for {', '.join(_FRAMEWORKS)}",
            code="unknown_framework",
        )
    locked = _read(lock)
    wanted = set(_SERVER) | set(roots)
    missing = wanted - {each.name for each in locked}
    if missing:
        raise Refused(f"{lock} does not pin {', '.join(sorted(missing))}", code="incomplete_lock")
    grown = True
    while grown:
        more = {each.name for each in locked if each.parents & wanted}
        grown = not more <= wanted
        wanted |= more
    chosen = sorted((each for each in locked if each.name in wanted), key=lambda each: each.lines)
    head = f"# What a model server for {framework} needs, out of the project's lock.\n"
    return head + "".join("\n".join(each.lines) + "\n" for each in chosen)


def _read(lock: Path) -> list[_Locked]:
    """The lock's entries, with the `# via` comments that say who needs each."""
    found: list[_Locked] = []
    block: list[str] = []
    for line in [*lock.read_text().splitlines(), "end==0"]:
        matched = _NAME.match(line)
        if matched and block:
            found.append(_entry(block))
            block = []
        if matched or block:
            block.append(line)
    return found


def _entry(block: list[str]) -> _Locked:
    matched = _NAME.match(block[0])
    assert matched is not None  # a block begins with one
    parents = set()
    for line in block:
        stripped = line.strip()
        if stripped.startswith("#"):
            parents |= set(
                re.findall(r"[a-z0-9][a-z0-9._-]*", stripped.replace("# via", "").replace("-r ", ""))
            )
    lines = tuple(line for line in block if line.strip() and not line.strip().startswith("#"))
    return _Locked(matched.group(1), lines, frozenset(parents))
