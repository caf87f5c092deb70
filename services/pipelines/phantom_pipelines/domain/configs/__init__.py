"""What each type of stage can be told: one module a type, one dataclass a type, every key checked.

A new key: a field here with its unit, a line in docs/pipelines.md, and the runner that honours it. Nothing is accepted
and then ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from phantom_pipelines.domain.configs.approval import ApprovalConfig
from phantom_pipelines.domain.configs.containerization import ContainerizationConfig
from phantom_pipelines.domain.configs.deployment import DeploymentConfig
from phantom_pipelines.domain.configs.testing import TestingConfig
from phantom_pipelines.domain.configs.validation import ValidationConfig
from phantom_pipelines.domain.reading import Reader
from phantom_platform.errors import Invalid

StageConfig = ApprovalConfig | ContainerizationConfig | DeploymentConfig | TestingConfig | ValidationConfig

DEFAULT_APPROVAL_TIMEOUT_S = 86_400.0
LONGEST_APPROVAL_TIMEOUT_S = 30 * 86_400.0

_READERS: dict[str, Callable[[Reader], StageConfig]] = {
    "validation": ValidationConfig.read,
    "containerization": ContainerizationConfig.read,
    "deployment": DeploymentConfig.read,
    "testing": TestingConfig.read,
    "approval": ApprovalConfig.read,
}
TYPES = tuple(_READERS)


@dataclass(frozen=True)
class ApprovalRule:
    """Who has to agree before the stage begins, and for how long it waits for them. Empty approvers: anybody."""

    approvers: tuple[str, ...] = ()
    timeout_s: float = DEFAULT_APPROVAL_TIMEOUT_S


@dataclass(frozen=True)
class StageSpec:
    """A configuration, understood. `approval` None: the stage begins by itself."""

    config: StageConfig
    approval: ApprovalRule | None = None


def read(kind: str, values: Mapping[str, Any], path: str = "stage") -> StageSpec:
    """The spec of a stage's `type` and `config`. Raises `Invalid` `invalid_stage` naming everything that is wrong."""
    head = Reader({"type": kind}, path)
    if not head.choice("type", TYPES):
        if not kind:
            head.wrong("type", f"is missing; use one of: {', '.join(TYPES)}")
        raise Invalid(code="invalid_stage", violations=head.problems)
    reader = Reader(values, f"{path}.config")
    approval = _approval(reader, kind)
    config = _READERS[kind](reader)
    reader.end()
    if reader.problems:
        raise Invalid(code="invalid_stage", violations=reader.problems)
    return StageSpec(config, approval)


def _approval(reader: Reader, kind: str) -> ApprovalRule | None:
    """The keys that every type has; a stage of type `approval` is nothing else."""
    is_required = reader.flag("approval_required", kind == "approval")
    approvers = reader.texts("approvers", kind="principal")
    timeout_s = reader.number("approval_timeout", above=0, most=LONGEST_APPROVAL_TIMEOUT_S)
    if is_required:
        return ApprovalRule(approvers, timeout_s or DEFAULT_APPROVAL_TIMEOUT_S)
    if kind == "approval":
        reader.wrong("approval_required", "is false, and a stage of type approval is nothing but that")
    for name in ("approvers", "approval_timeout"):
        if reader.has(name):
            reader.wrong(name, "is for stages with approval_required: true")
    return None
