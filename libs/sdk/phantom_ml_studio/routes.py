"""`Route`: what a gateway decides with, so that anyone can recompute a decision offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phantom_contracts.events.deployer import RouteRecord
from phantom_statistics import assignment


@dataclass(frozen=True)
class Explanation:
    """Which revision a unit gets from the rollout, and the arithmetic of why."""

    endpoint: str
    route_version: int
    hash_field: str
    unit: str
    salt: str
    bucket: int
    arm: str
    revision: str
    model_version: str
    allocations: tuple[tuple[int, int, str], ...]

    @property
    def sentence(self) -> str:
        """The arithmetic in words."""
        ranges = ", ".join(f"[{s}, {e}) → {arm}" for s, e, arm in self.allocations) or "none"
        return (
            f"xxh3_64({self.salt!r} + ':' + {self.unit!r}) mod 10000 = {self.bucket}; allocations: {ranges}; "
            f"so arm {self.arm} = {self.revision} (version {self.model_version})"
        )


@dataclass(frozen=True)
class Route:
    """One version of an endpoint's route."""

    record: RouteRecord

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Route:
        """From the record's JSON."""
        return cls(RouteRecord.model_validate(record))

    @property
    def version(self) -> int:
        """The route version, as answers carry it in `phantom-route-version`."""
        return self.record.version

    def explain(self, unit: str | int | bool) -> Explanation:
        """What the rollout's weights decide for a unit (a running experiment or a pin comes before them)."""
        record = self.record
        text = assignment.unit_text(unit)
        bucket = assignment.bucket(record.salt, text)
        allocations = tuple(assignment.Allocation(a.start, a.end, a.arm) for a in record.allocations)
        arm = assignment.arm_of(allocations, bucket)
        revision_id = record.arms.get(arm, record.arms["control"])
        revision = record.revision(revision_id)
        return Explanation(
            endpoint=record.endpoint,
            route_version=record.version,
            hash_field=record.hash_field,
            unit=text,
            salt=record.salt,
            bucket=bucket,
            arm=arm,
            revision=revision_id,
            model_version=revision.model_version if revision else "",
            allocations=tuple((a.start, a.end, a.arm) for a in record.allocations),
        )
