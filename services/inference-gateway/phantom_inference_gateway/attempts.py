"""One attempt at a call: what the use case hands to a replica, and what comes back in it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from phantom_inference_gateway.calls import Part
from phantom_inference_gateway.domain.admission import Gate
from phantom_inference_gateway.domain.retry import Ending

DEADLINE_EXCEEDED = 4
UNAVAILABLE = 14


class Attempt:
    """Waits in `ended`; the replica fills in the rest before it sets that."""

    __slots__ = (
        "body",
        "code",
        "deadline",
        "ended",
        "ending",
        "is_alone",
        "message",
        "parts",
        "reason",
        "response",
    )

    def __init__(
        self, body: bytes, deadline: float, ended: asyncio.Future[None], is_alone: bool = False
    ) -> None:
        self.body = body
        self.deadline = deadline
        self.ended = ended
        self.is_alone = is_alone
        self.ending = Ending.UNSENT
        self.code = 0
        self.response = b""
        self.reason = ""
        self.message = ""
        self.parts: list[Part] | tuple[Part, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.ended.done()

    def end(self, ending: Ending, code: int = 0, reason: str = "", message: str = "") -> None:
        """End it, unless it has ended already."""
        if self.ended.done():
            return
        self.ending = ending
        self.code = code
        self.reason = reason
        self.message = message
        self.ended.set_result(None)


class Target(Protocol):
    """A replica that takes attempts. What it needs to be chosen stands in `domain.replicas.Candidate`."""

    replica_id: str
    outstanding: int
    # Told by the use case of what is sent and what comes back.
    gate: Gate

    def is_open(self, now: float) -> bool: ...

    def is_last_resort(self, now: float) -> bool: ...

    def send(self, attempt: Attempt, now: float) -> None:
        """Take it; it ends whatever happens. Counts as outstanding until `release`."""
        ...

    def release(self, attempt: Attempt, now: float) -> None:
        """The use case is done with it; where it has not ended, nobody waits for it any longer."""
        ...
