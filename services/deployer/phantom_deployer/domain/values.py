"""Values that use cases take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from phantom_deployer.domain.rollouts.spec import RolloutSpec

T = TypeVar("T")

DEPLOYER = "deployer"


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks for a change; equal request ids of one principal must come with equal fingerprints."""

    workspace: str
    principal: str
    request_id: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What to deploy. Empty and 0 mean: as the deployment is, or the default."""

    model_id: str
    environment: str
    version: str = ""
    deployment_id: str = ""
    replicas: int = 0
    hash_field: str = ""
    canary_bp: int = 0
    is_vouched: bool = False
    # On whose behalf; empty: the caller's own.
    requester: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a change led to."""

    deployment_id: str
    revision: str = ""
    route_version: int = 0


@dataclass(frozen=True, slots=True)
class RolloutOrder:
    """What to roll out. Empty means as in `Order`; `requester`: on whose behalf, empty for the caller's own."""

    model_id: str
    environment: str
    spec: RolloutSpec
    version: str = ""
    deployment_id: str = ""
    is_vouched: bool = False
    requester: str = ""


@dataclass(frozen=True, slots=True)
class RolloutAnswer:
    """The rollout that a change was about."""

    rollout_id: str
    deployment_id: str


@dataclass(frozen=True, slots=True)
class RolloutKey:
    """A live rollout."""

    workspace: str
    deployment_id: str
    rollout_id: str


@dataclass(frozen=True, slots=True)
class RouteVersion:
    """One version of a route; without a record it is the end of it."""

    version: int
    record_json: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """One page; `last` names the last item where more follow."""

    items: Sequence[T]
    last: str = ""


@dataclass(frozen=True, slots=True)
class KnownGateway:
    """A gateway process in the table."""

    boot_id: str
    last_seen: datetime
