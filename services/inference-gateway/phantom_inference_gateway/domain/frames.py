"""How calls gather into frames on one stream: what may leave now, what waits and until when. No sockets.

A frame leaves at once when nothing is in flight; otherwise when an answer returns, or 256 calls or 1 MiB have
gathered, or the oldest has waited 1 ms; never more than 4 in flight. A call that must be alone gets its own frame.

Where calls come so fast that more are to be expected within that millisecond, and come beside one another, frames
leave one a millisecond even when nothing is in flight: a fast model would otherwise answer each call before the next
came, and a frame's fixed cost (some 100 µs of CPU on either side) would be paid for every single call. A client that
sends its next call after its last answer is alone on the stream, and never waits, however fast it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

_WEIGHT = 1 / 16  # of the newest gap in the mean
_LONG_S = 0.02  # a longer pause counts as this
_TOGETHER = (
    1 / 16
)  # the share of calls that meet another one on the stream above which they are not one client's


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """When a gathering frame leaves."""

    calls: int = 256
    size: int = 1024 * 1024
    wait_s: float = 0.001
    in_flight: int = 4


class Queued(Protocol):
    """A call that waits for its frame."""

    body: bytes
    deadline: float
    is_alone: bool

    @property
    def is_done(self) -> bool:
        """It has ended meanwhile: its client went away, or its deadline passed."""
        ...


QueuedT = TypeVar("QueuedT", bound=Queued)


@dataclass(slots=True)
class Frame(Generic[QueuedT]):
    """Calls that travel together."""

    sequence: int
    calls: list[QueuedT]
    # The earliest deadline among them.
    first_deadline: float
    # The latest; silence beyond it is the replica's.
    deadline: float


class FrameQueue(Generic[QueuedT]):
    """The calls of one stream: waiting, and in flight by frame."""

    __slots__ = (
        "_arrived",
        "_company",
        "_cut",
        "_gap",
        "_gathering_since",
        "_limits",
        "_sequence",
        "_size",
        "_waiting",
        "in_flight",
    )

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._waiting: deque[QueuedT] = deque()
        self._size = 0
        self._gathering_since = 0.0
        # When the last call came and the last frame left, and the mean gap between calls.
        self._arrived = self._cut = float("-inf")
        self._gap = _LONG_S
        # The share of calls that met another one here, waiting or in flight.
        self._company = 0.0
        self._sequence = 0
        self.in_flight: dict[int, Frame[QueuedT]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, call: QueuedT, now: float) -> None:
        """Queue a call."""
        has_company = bool(self._waiting or self.in_flight)
        if not self._waiting:
            self._gathering_since = now
        self._company += (has_company - self._company) * _WEIGHT
        self._gap += (min(now - self._arrived, _LONG_S) - self._gap) * _WEIGHT
        self._arrived = now
        self._waiting.append(call)
        self._size += len(call.body)

    def due(self, now: float) -> float | None:
        """Seconds until a frame may leave (0 = now); None where only an answer can let one leave."""
        if not self._waiting or len(self.in_flight) >= self._limits.in_flight:
            return None
        if len(self._waiting) >= self._limits.calls or self._size >= self._limits.size:
            return 0.0
        if self._gap < self._limits.wait_s and self._company > _TOGETHER:
            return max(0.0, self._cut + self._limits.wait_s - now)
        if not self.in_flight:
            return 0.0
        return max(0.0, self._gathering_since + self._limits.wait_s - now)

    def cut(self, now: float) -> Frame[QueuedT] | None:
        """The next frame, now in flight; None where all that waited have ended meanwhile."""
        calls = self._take()
        if not calls:
            return None
        self._sequence += 1
        deadlines = [call.deadline for call in calls]
        frame = Frame(self._sequence, calls, min(deadlines), max(deadlines))
        self.in_flight[frame.sequence] = frame
        self._gathering_since = self._cut = now
        return frame

    def answered(self, sequence: int) -> Frame[QueuedT] | None:
        """The frame that an answer ends; None where no such frame is in flight."""
        return self.in_flight.pop(sequence, None)

    def overdue(self, now: float) -> bool:
        """Whether a frame in flight is past its latest deadline."""
        return any(frame.deadline < now for frame in self.in_flight.values())

    def expired(self, now: float) -> list[QueuedT]:
        """Calls past their deadline that have not ended, waiting or in flight. They stay where they are."""
        late = [call for call in self._waiting if call.deadline < now and not call.is_done]
        for frame in self.in_flight.values():
            if frame.first_deadline >= now:
                continue
            late += [call for call in frame.calls if call.deadline < now and not call.is_done]
        return late

    def drop_waiting(self) -> list[QueuedT]:
        """The calls that were not written yet; they leave the queue."""
        waiting = [call for call in self._waiting if not call.is_done]
        self._waiting.clear()
        self._size = 0
        return waiting

    def clear(self) -> tuple[list[QueuedT], list[QueuedT]]:
        """Empty it: the calls that were never written, and those that were."""
        unsent = self.drop_waiting()
        sent = [call for frame in self.in_flight.values() for call in frame.calls if not call.is_done]
        self.in_flight.clear()
        return unsent, sent

    def _take(self) -> list[QueuedT]:
        calls: list[QueuedT] = []
        size, waiting = 0, self._waiting
        while waiting and len(calls) < self._limits.calls:
            call = waiting[0]
            length = len(call.body)
            if calls and (call.is_alone or size + length > self._limits.size):
                break
            waiting.popleft()
            self._size -= length
            if call.is_done:
                continue
            calls.append(call)
            size += length
            if call.is_alone:
                break
        return calls
