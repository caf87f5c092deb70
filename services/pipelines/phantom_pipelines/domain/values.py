"""The service's values. Times are aware and in UTC, durations seconds, digests `sha256:<64 hex>`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Json = dict[str, Any]

MAY_DEPLOY = "models:deploy"


@dataclass(frozen=True)
class Call:
    """One mutating call. The same `request_id` with another `fingerprint` is a mistake of the caller's."""

    principal: str
    workspace: str
    request_id: str = ""
    fingerprint: str = ""
    # Whether the caller may deploy without a pipeline, too.
    may_deploy: bool = False


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
class ModelVersion:
    """A registered version, as it was when the execution began. `schema_json` is a ModelSchema, or empty."""

    model_id: str
    version: str
    digest: str
    size_bytes: int
    file_name: str
    framework: str
    schema_json: str = ""
    metadata: Json = field(default_factory=dict)
    claimed_metrics: Json = field(default_factory=dict)
    created_by: str = ""


@dataclass(frozen=True)
class Dataset:
    """A registered version of a dataset."""

    name: str
    version: str
    digest: str
    uri: str
    rows: int
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True)
class SourceData:
    """A dataset that a version was made from; `role` is `training`, `evaluation` or any other word."""

    dataset: str
    version: str
    role: str


@dataclass(frozen=True)
class Lineage:
    """What a version was made from, as far as the stages need it. `dependencies`: package → version."""

    sources: tuple[SourceData, ...] = ()
    dependencies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """What serves a model in an environment. `version` is the stable revision's; empty: none yet."""

    deployment_id: str
    environment: str
    model_id: str
    version: str = ""
    digest: str = ""
    phase: str = ""
    reason: str = ""
    is_rolling_out: bool = False
    # Other names that clients may call it by.
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployed:
    """What a call made of a deployment. `is_first`: of nothing, so that the revision it made is the one that serves."""

    deployment_id: str
    is_first: bool


@dataclass(frozen=True)
class LogLine:
    """`level` is `info`, `warning` or `error`."""

    at: datetime
    level: str
    text: str


@dataclass(frozen=True)
class Due:
    """An execution for which there is something to do."""

    workspace: str
    execution_id: str
    is_cancelling: bool


@dataclass(frozen=True)
class Attempt:
    """One attempt at one stage; only the newest one of a running stage may write."""

    workspace: str
    execution_id: str
    stage: str
    number: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.workspace, self.execution_id, self.stage, self.number)
