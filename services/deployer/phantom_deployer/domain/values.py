"""Values that use cases take and give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

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


@dataclass(frozen=True, slots=True)
class Answer:
    """What a change led to."""

    deployment_id: str
    revision: str = ""
    route_version: int = 0


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
