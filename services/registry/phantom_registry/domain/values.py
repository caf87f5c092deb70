"""The registry's values. Digests are `sha256:<64 hex>`, sizes bytes, times aware and in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from phantom_registry.domain.stages import Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Actor:
    """Who acts, where, and what else than the call itself is allowed to them."""

    principal: str
    workspace: str
    may_approve: bool = False
    may_promote: bool = False


@dataclass(frozen=True)
class Call:
    """One mutating call. The same `request_id` with another `fingerprint` is a mistake of the caller's."""

    actor: Actor
    request_id: str = ""
    fingerprint: str = ""

    @property
    def workspace(self) -> str:
        return self.actor.workspace

    @property
    def principal(self) -> str:
        return self.actor.principal


@dataclass(frozen=True)
class Page:
    """What part of a list is wanted: at most `size` rows whose place is below `before` (None: from the newest)."""

    size: int
    before: int | None = None


@dataclass(frozen=True)
class Listed(Generic[T]):
    """One page; `last` is the place of its last row where more follow."""

    items: Sequence[T]
    last: int | None = None


@dataclass(frozen=True)
class Model:
    """`stage_versions`: stage → the version promoted to it last, among those in it now."""

    model_id: str
    description: str
    tags: tuple[str, ...]
    created_at: datetime
    created_by: str
    latest_version: str = ""
    stage_versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionSpec:
    """A version to be. Stage None: development."""

    version: str
    digest: str
    file_name: str
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    claimed_metrics: dict[str, Any] = field(default_factory=dict)
    model_schema: str = ""
    changes: tuple[str, ...] = ()
    performance_comparison: dict[str, Any] = field(default_factory=dict)
    stage: Stage | None = None


@dataclass(frozen=True)
class Version:
    """A version as it stands. `metadata` and `claimed_metrics` are the author's words."""

    model_id: str
    version: str
    digest: str
    size_bytes: int
    file_name: str
    framework: str
    stage: Stage
    description: str
    metadata: dict[str, Any]
    claimed_metrics: dict[str, Any]
    model_schema: str
    changes: tuple[str, ...]
    performance_comparison: dict[str, Any]
    created_at: datetime
    created_by: str


@dataclass(frozen=True)
class Registered:
    """What `RegisterModel` answers."""

    model: Model
    version: Version | None


@dataclass(frozen=True)
class Artifact:
    """Bytes that a workspace has uploaded."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset, by content."""

    name: str
    version: str
    digest: str
    uri: str
    rows: int
    metadata: dict[str, Any]
    created_at: datetime
    created_by: str
