"""One version of an endpoint's route with the replicas behind it, and the count of attempts chosen under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from phantom_inference_gateway.domain.routing import Plan

TargetT = TypeVar("TargetT")


@dataclass(slots=True)
class Table(Generic[TargetT]):
    """What a call needs once its endpoint is known. Never changed but for `attempts`."""

    workspace: str
    endpoint: str
    # `<workspace>/<endpoint>`
    key: str
    version: int
    # Of the endpoint's experiments record; 0 where there is none.
    experiment_version: int
    plan: Plan
    # Revision id → its replicas.
    targets: Mapping[str, Sequence[TargetT]]
    # Attempts under way whose replica was chosen from this table.
    attempts: int = 0


class History(Generic[TargetT]):
    """The tables of one endpoint: the one that is applied, and older ones with attempts under way."""

    __slots__ = ("_older", "applied", "current", "experiment")

    def __init__(self) -> None:
        self.current: Table[TargetT] | None = None
        self.applied = 0
        self.experiment = 0
        self._older: list[Table[TargetT]] = []

    def replace(self, table: Table[TargetT] | None, version: int, experiment: int) -> None:
        """Apply a newer version; None where the endpoint was deleted by it."""
        if self.current is not None:
            self._older.append(self.current)
        self.current, self.applied, self.experiment = table, version, experiment

    def drained(self) -> int:
        """N where N or newer is applied, and every attempt chosen under an older version has ended."""
        self._older = [each for each in self._older if each.attempts]
        return min((each.version for each in self._older), default=self.applied)
