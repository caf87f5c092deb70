"""Values that pass between the monitor's rooms."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from phantom_contracts.schema import ModelSchema
from phantom_monitor.domain.counts import WindowCounts, WindowKey
from phantom_monitor.domain.labels import Scalar


@dataclass(frozen=True, slots=True)
class Reported:
    """An outcome as it came. `kind` says whose id it is: prediction or request."""

    workspace: str
    endpoint: str
    kind: str
    id: str
    row: int
    event_us: int
    partition: int
    offset: int
    label: Scalar
    fields: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """The newest outcome of an id."""

    kind: str
    event_us: int
    label: Scalar
    fields: dict[str, Scalar] = field(default_factory=dict)


@dataclass(slots=True)
class StoredWindow:
    """A window as it stands; `is_changed` since it was last announced."""

    key: WindowKey
    counts: WindowCounts
    is_complete: bool
    revision_no: int
    is_changed: bool


class Routes(Protocol):
    """What the routes say."""

    def canonical(self, workspace: str, endpoint: str) -> str:
        """The endpoint that a name or alias means; the name itself where none is known."""
        ...

    def schema(self, workspace: str, revision: str) -> ModelSchema | None:
        """A revision's schema, also after its route has gone."""
        ...


def unix_us(moment: datetime) -> int:
    """Unix microseconds."""
    return int(moment.timestamp() * 1_000_000)
