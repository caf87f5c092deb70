"""A call on its way through the use case, and what bounds and feeds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from phantom_inference_gateway.attempts import Attempt, Target
from phantom_inference_gateway.calls import Call, FailedAttempt
from phantom_inference_gateway.domain.retry import Trial
from phantom_inference_gateway.domain.routing import Choice
from phantom_inference_gateway.domain.tables import Table


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """Copies, and their request bytes, that may be under way at once."""

    copies: int = 256
    size: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be under way at once; beyond it calls are refused at once."""

    calls: int = 4096
    size: int = 512 * 1024 * 1024
    # Copies for shadow revisions; beyond it they are left out.
    shadows: ShadowLimits = field(default_factory=ShadowLimits)


@dataclass(frozen=True, slots=True)
class Source:
    """Ids and randomness."""

    # 16 bytes of a UUIDv7 for a Unix time in ms.
    mint: Callable[[int], bytes]
    # An integer in [0, n).
    below: Callable[[int], int]


@dataclass(slots=True)
class Journey:
    """A call on its way."""

    call: Call
    table: Table[Target]
    choice: Choice
    unit: str
    # Pinned or overridden: never another revision.
    is_exact: bool
    prediction_id: bytes
    received_us: int
    started: float
    # The revision that is tried now; another than the choice's where it fell back.
    revision: str
    trial: Trial | None = None
    tried: tuple[Target, ...] = ()
    failed: tuple[FailedAttempt, ...] = ()
    # The last attempt that counted, and its revision.
    last: Attempt | None = None
    last_revision: str = ""

    def take(self, choice: Choice, unit: str) -> None:
        """Go where the choice says."""
        self.choice, self.unit, self.revision = choice, unit, choice.revision
