"""When no gateway can use a route any more: contracts §5 as a state machine without I/O.

It is fed with what a reader of route-acks and a reader of routes see, in the order they see it, and with the
moments at which the first was at the end of its topic. Times are seconds of one monotonic clock.

A gateway counts from its join (or any later sign of life) to its leave. It must report what is asked of it, unless it
was silent for `SILENT_AFTER_S` of uninterrupted reading at the end of the topic: time in which Kafka or this
process was away proves nothing about a gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

SILENT_AFTER_S = 10.0
# Looks at the end of the topic that are further apart were interrupted: something was away.
MAX_GAP_S = 3.0
# A gateway that was silent for so long is forgotten; should it speak again, it counts again.
FORGOTTEN_AFTER_S = 3600.0

Stage = Literal["applied", "drained"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Route versions of one endpoint in one gateway, 0 where none."""

    applied: int = 0
    drained: int = 0

    def at(self, stage: Stage) -> int:
        return self.applied if stage == "applied" else self.drained


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is missing until a route version is acknowledged."""

    reason: str
    gateways: tuple[str, ...] = ()


@dataclass(slots=True)
class Gateway:
    """One gateway process as known here. `silence_s` counts uninterrupted reading only."""

    boot_id: str
    progress: dict[str, Progress] = field(default_factory=dict)
    silence_s: float = 0.0
    was_heard: bool = False
    # By Kafka's clock.
    last_seen: datetime | None = None

    @property
    def is_silent(self) -> bool:
        return self.silence_s >= SILENT_AFTER_S


@dataclass(frozen=True, slots=True)
class _Confirmed:
    version: int
    at: float


class Acknowledgements:
    """What every gateway has acknowledged. One reader feeds it; not for several threads."""

    def __init__(self) -> None:
        self._gateways: dict[str, Gateway] = {}
        self._confirmed: dict[str, _Confirmed] = {}
        # Everything that was in route-acks at this time has been read.
        self._read_through: float | None = None
        self._last_look: float | None = None

    @property
    def gateways(self) -> Mapping[str, Gateway]:
        return self._gateways

    def join(self, boot_id: str, seen: datetime | None = None) -> bool:
        """A join record, or a boot id from the table. True where it was not known."""
        is_new = boot_id not in self._gateways
        gateway = self._gateways.setdefault(boot_id, Gateway(boot_id))
        gateway.was_heard = True
        gateway.silence_s = 0.0
        gateway.last_seen = seen or gateway.last_seen
        return is_new

    def heartbeat(self, boot_id: str, progress: Mapping[str, Progress], seen: datetime | None = None) -> bool:
        """A heartbeat, which tells of every endpoint at once. True where the gateway was not known."""
        is_new = self.join(boot_id, seen)
        self._gateways[boot_id].progress = dict(progress)
        return is_new

    def leave(self, boot_id: str) -> bool:
        """A leave record: its last answer is out. True where it was known."""
        return self._gateways.pop(boot_id, None) is not None

    def at_end(self, asked_at: float) -> None:
        """Everything that was in the topic at `asked_at` has been read; nothing is missing in between."""
        gap = None if self._last_look is None else asked_at - self._last_look
        is_continuous = gap is not None and 0 <= gap <= MAX_GAP_S
        for gateway in self._gateways.values():
            if gateway.was_heard or not is_continuous:
                gateway.silence_s = 0.0
            elif gap is not None:
                gateway.silence_s += gap
            gateway.was_heard = False
        self._last_look = asked_at
        if self._read_through is None or asked_at > self._read_through:
            self._read_through = asked_at

    def interrupted(self) -> None:
        """Kafka did not answer: silence before this says nothing."""
        self._last_look = None
        for gateway in self._gateways.values():
            gateway.silence_s = 0.0

    def confirm(self, endpoint: str, version: int, at: float) -> None:
        """The route record (or tombstone) of that version was read back from Kafka at `at`."""
        known = self._confirmed.get(endpoint)
        if known is None or version > known.version:
            self._confirmed[endpoint] = _Confirmed(version, at)

    def lost(self, endpoint: str) -> None:
        """No version of that route is in Kafka any more, though one was."""
        self._confirmed.pop(endpoint, None)

    def silent(self) -> list[Gateway]:
        """Those that nothing waits for any more."""
        return [gateway for gateway in self._gateways.values() if gateway.is_silent]

    def confirmed(self, endpoint: str) -> int:
        """The newest version of that route known to be in Kafka, 0 where none."""
        known = self._confirmed.get(endpoint)
        return known.version if known else 0

    def forget(self) -> tuple[str, ...]:
        """Drop gateways that were silent for very long; their boot ids."""
        gone = tuple(g.boot_id for g in self._gateways.values() if g.silence_s >= FORGOTTEN_AFTER_S)
        for boot_id in gone:
            del self._gateways[boot_id]
        return gone

    def waiting(self, endpoint: str, version: int, stage: Stage = "drained") -> Waiting | None:
        """None where every gateway that may use an older version of the route has reached the stage."""
        known = self._confirmed.get(endpoint)
        if known is None or known.version < version:
            return Waiting(f"waiting for route {version} of {endpoint} to be in Kafka")
        if self._read_through is None or self._read_through <= known.at:
            return Waiting("reading what gateways have acknowledged so far")
        behind = [
            gateway
            for gateway in self._gateways.values()
            if not gateway.is_silent and gateway.progress.get(endpoint, Progress()).at(stage) < version
        ]
        if not behind:
            return None
        return Waiting(
            "; ".join(self._words(each, endpoint, version, stage) for each in behind),
            tuple(each.boot_id for each in behind),
        )

    def acknowledged(self, endpoint: str, upto: int) -> int:
        """The newest version, at most `upto`, that every gateway that is not silent has applied."""
        versions = [
            gateway.progress.get(endpoint, Progress()).applied
            for gateway in self._gateways.values()
            if not gateway.is_silent
        ]
        return min([upto, self.confirmed(endpoint), *versions])

    @staticmethod
    def _words(gateway: Gateway, endpoint: str, version: int, stage: Stage) -> str:
        verb = "apply" if stage == "applied" else "drain"
        reached = gateway.progress.get(endpoint, Progress()).at(stage)
        silent = f", not heard for {gateway.silence_s:.1f} s" if gateway.silence_s >= 1.5 else ""
        return (
            f"waiting for gateway {gateway.boot_id} to {verb} route {version} of {endpoint} (it is at {reached}"
            f"{silent})"
        )
