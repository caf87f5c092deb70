"""Windows as they are kept, and how a span of a rollout is cut into blocks of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from phantom_deployer.domain.rollouts.model import WINDOW_S, Rollout, Span

# Blocks of a span at most: a longer one is cut into longer blocks.
MOST_BLOCKS = 512
# A window changes with its labels, which count up to a day after maturity; an hour more, for what is on its way.
FINAL_AFTER = timedelta(hours=25)
# Final windows are merged by so much.
FOLD = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Closed:
    """Every window that ends by `until` is published; when that was heard, and how many gateways vouch for it."""

    until: datetime
    heard_at: datetime
    gateways: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The sums of a window (`phantom_statistics.rollouts.Sums` as bytes), and what counts it."""

    sums: bytes
    is_candidate: bool = False
    is_matured: bool = False
    decision: str = "rollout"
    agreement_json: str | None = None
    is_complete: bool = True
    requests: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Folded:
    """Windows of a revision in a span, merged."""

    start: datetime
    length_s: int
    # The first one of the span.
    route_version: int
    revision: str
    window: Window


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive windows of one span."""

    windows: Sequence[Window] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a block consists of. Equal signs of equal blocks mean equal sums."""

    number: int
    sign: tuple[int, int, int]
    # End of the newest window in which the candidate had traffic.
    last_traffic_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BlockKey:
    """The windows of a span that are published, in blocks of `length_s`."""

    workspace: str
    endpoint: str
    candidate: str
    stable: str
    first_version: int
    last_version: int
    begin: datetime
    end: datetime | None
    closed_until: datetime
    matured_until: datetime
    length_s: int

    def is_whole(self, number: int) -> bool:
        """Whether nothing can be added to the block any more."""
        end = self.begin + timedelta(seconds=(number + 1) * self.length_s)
        return end <= self.closed_until or (self.end is not None and end <= self.end)

    def starts_at(self, number: int) -> int:
        """Unix seconds."""
        return int(self.begin.timestamp()) + number * self.length_s


def block_key(rollout: Rollout, span: Span, closed_until: datetime) -> BlockKey | None:
    """None while the span's clock stands."""
    begin = span.evidence_from
    if begin is None:
        return None
    maturity = timedelta(seconds=rollout.maturity_s or 0.0)
    return BlockKey(
        workspace=rollout.workspace,
        endpoint=rollout.deployment_id,
        candidate=rollout.candidate,
        stable=rollout.stable,
        first_version=span.first_version,
        last_version=span.last_version,
        begin=begin,
        end=span.ended_at,
        closed_until=closed_until,
        matured_until=closed_until - maturity,
        length_s=block_length_s(rollout, span, closed_until),
    )


def block_length_s(rollout: Rollout, span: Span, closed_until: datetime) -> int:
    """A measurement's length, in whole windows; doubled until the span has few enough of them."""
    planned = rollout.window_s if span.bp == 10_000 else rollout.spec.interval_s
    length = max(1, math.ceil(rollout.spec.analysis_s(planned) / WINDOW_S)) * WINDOW_S
    begin = span.evidence_from or closed_until
    age = ((span.ended_at or closed_until) - begin).total_seconds()
    while age / length > MOST_BLOCKS:
        length *= 2
    return length
