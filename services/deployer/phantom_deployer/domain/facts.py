"""What happened to a deployment. The service turns each into an event."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Created:
    model_version: str
    replicas: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    revision: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BecameReady:
    revision: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    revision: str
    error_code: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WeightSet:
    revision: str
    bp: int
    previous_bp: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ShadowSet:
    revision: str
    bp: int
    previous_bp: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SwitchedBack:
    revision: str
    previous: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RolledBack:
    revision: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    revision: str
    previous: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    revision: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Restarted:
    revision: str
    replica: str
    restarts: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RolloutMoved:
    """From a state or step to another; `bp` is the share."""

    rollout: str
    strategy: str
    revision: str
    from_state: str
    to_state: str
    reason_code: str
    criterion: str
    step: int
    bp: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Deleted:
    reason: str = ""


Fact = (
    Created
    | Added
    | BecameReady
    | Failed
    | WeightSet
    | ShadowSet
    | SwitchedBack
    | RolledBack
    | Completed
    | Withdrawn
    | Restarted
    | RolloutMoved
    | Deleted
)
