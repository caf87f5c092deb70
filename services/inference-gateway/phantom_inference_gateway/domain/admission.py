"""Who may still join a replica's queue: an estimate of how long a new call waits, from what is outstanding and how
fast answers come. Arithmetic; times are passed in.

A replica answers so many calls a second, so a call that finds n outstanding waits about n / rate. What it may wait
is bounded by the rule and by its own deadline. Nobody says what a replica can do; it is read off its answers:

- Answers come in groups (a frame's all at once), so the rate is measured from the end of one group to the end of
  another, and only over time in which something was outstanding.
- What is measured while calls hardly wait is what was asked for, not what the replica can do: it may raise the rate,
  never lower it. Only where calls waited for one another (a good part of the bound, or past their deadlines) is the
  measured rate the replica's. Until that has been seen the replica gets the benefit of the doubt: a burst queues.
- The model's own time is no waiting: five times the shortest that an answer took, since a call may find four frames
  under way. A model that takes long a frame, however many calls are in it, is not overloaded for that; fewer calls
  would wait no shorter, and its frames, and its rate with them, would only become smaller.
- Where no answer comes at all, a new call is taken to wait at least as long as nothing has come.

Some calls are let in whatever the estimate says, so that a replica is never locked out by a wrong one and each
answer corrects it. An operation takes well under half a microsecond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_SLOT_S = 0.1
"""Busy time over which answers are counted before the rate is looked at; for a slow model its own time."""

_APART_S = 0.0005
"""Answers closer than this belong to one group."""

_MANY = 1024
"""Answers that are so many that part of a group more or less does not matter."""

_MEMORY_S = 2.0
"""How soon a slot of a full queue has faded to 1/e; for a slow model four slots."""

_FULL = 0.1
"""Calls that waited this share of the bound waited for one another."""

_LATE = 0.05
"""As many calls past their deadline, by the answers: the queue was too long for them."""

_GAIN = 16
"""So many times as fast as it was seen a replica may be that is asked for more at once: it answers them together."""

_OWN = 5
"""A call's own frame and four that it may find under way: what they take with one call each is no queue."""

_SHARE = 1.25
"""A call waits also for those in its own frame that come after it: up to four frames share what is outstanding."""

_OFF = 3.0
"""Calls that waited so many bounds say that the rate is wrong: it is measured anew."""

_PROVEN_S = 600.0
"""How long a rate of a full queue is believed once the queue is empty."""


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """When a call is refused."""

    # How long a call may be expected to wait in the queue, besides the model's own time; 0: whatever comes is queued.
    max_wait_s: float = 1.0
    # Outstanding calls below which the bound does not count: twice what keeps every frame of a stream under way.
    floor: int = 8
    # Outstanding calls that a replica may be given whose rate is not known: twice what a stream takes at once.
    unknown: int = 2048


@dataclass(frozen=True, slots=True)
class Overload:
    """Why a call may not join."""

    outstanding: int
    # Answers a second; 0 where none has come.
    rate: float
    # Seconds until an answer, the model's own time included; infinite where none has come.
    wait_s: float
    # What the wait exceeds: the rule's bound and the model's own time, or where `is_deadline` the time that is left.
    bound_s: float
    is_deadline: bool


class Gate:
    """The estimate for one replica. Tell it of every call that is sent (`admit`) and every answer (`answered`)."""

    __slots__ = (
        "_bound", "_count", "_floor", "_full", "_last", "_late", "_least", "_light", "_own", "_pace",
        "_pause", "_proven_until", "_since", "_slot", "_took", "_trusted", "_unknown", "_was_full", "rate",
    )  # fmt: skip

    def __init__(self, rule: AdmissionRule) -> None:
        self._bound = rule.max_wait_s or math.inf
        self._floor = rule.floor
        self._unknown = rule.unknown if rule.max_wait_s else math.inf
        # Answers a second; 0 while none was measured.
        self.rate = 0.0
        # Seconds an answer, and the outstanding calls from which on it is believed.
        self._pace = math.inf
        self._trusted: float = self._unknown
        self._proven_until = 0.0
        # The shortest time that an answer took, and what it makes of the model's own time; infinite before the first.
        self._least = self._own = math.inf
        # The slot: its begin, moved on by the time in which nothing was outstanding; the last answer (or the first
        # call after such a time); answers, the sum of their times, and calls past their deadline.
        self._since = self._last = 0.0
        self._slot = _SLOT_S
        self._count = self._late = 0
        self._took = 0.0
        # Of a full queue, and of one that is not.
        self._full, self._light = _Slots(), _Slots()
        # Whether the last slot was of a full queue; answers and seconds of one that may have been a pause.
        self._was_full = False
        self._pause: tuple[int, float] | None = None

    def admit(self, outstanding: int, now: float, deadline: float) -> bool:
        """Whether a call may join `outstanding` others, so as to be answered by its deadline."""
        if outstanding < 2:
            if not outstanding:
                self._since += now - self._last
                self._last = now
            return True
        time = (outstanding + 1) * self._pace if outstanding >= self._trusted else 0.0
        silence = now - self._last
        if silence > time:
            time = silence
        wait = (time - self._own) * _SHARE
        if (wait <= self._bound or outstanding < self._floor) and wait + self._own <= deadline - now:
            return True
        if self._own == math.inf:  # no answer yet: nothing is known
            return outstanding < self._unknown
        return self._bound == math.inf

    def answered(self, took: float, now: float, is_ok: bool = True) -> None:
        """An answer came, `took` seconds after its call was sent."""
        last = self._last
        busy = last - self._since
        if busy >= self._slot and (now - last > _APART_S or self._count >= _MANY):
            self._fold(last)
        self._last = now
        self._count += 1
        self._took += took
        if took < self._least and is_ok:
            self._least = took
            self._own = _OWN * took

    def late(self, now: float) -> None:
        """A call was past its deadline before its answer came."""
        self._late += 1
        silence = now - self._last
        if silence > _SLOT_S:
            # No answer comes in time: what is known is wrong, and what is in execution is in vain.
            self._pace, self._trusted = silence, 0
            self._full.clear()

    def wait_s(self, outstanding: int, now: float) -> float:
        """Seconds until a call that comes now is answered, as far as that is known; 0 where nothing is outstanding."""
        if not outstanding or self._own == math.inf:
            return 0.0
        time = max((outstanding + 1) * self._pace if self.rate else 0.0, now - self._last)
        return max(self._least, time, (time - self._own) * _SHARE + self._own)

    def overload(self, outstanding: int, now: float, deadline: float) -> Overload:
        """The figures behind a refusal by `admit`."""
        is_known = self._own < math.inf
        wait = self.wait_s(outstanding, now) if is_known else math.inf
        bound = self._bound + self._own if is_known else self._bound
        left = max(0.0, deadline - now)
        is_deadline = left < wait <= bound
        return Overload(outstanding, self.rate, wait, left if is_deadline else bound, is_deadline)

    def _fold(self, end: float) -> None:
        """Read the slot that ends with the group of answers at `end`, and begin the next one."""
        span, count = end - self._since, self._count
        fading = math.exp(-span / max(_MEMORY_S, 4 * self._slot))
        waited = self._took / count - self._own
        are_late = self._late > count * _LATE
        is_full = are_late or waited >= self._bound * _FULL
        pause, self._pause = self._pause, None
        if is_full and not (are_late or self._was_full) and span < self._bound:
            # It may be a pause of the machine, which says nothing of what a replica can do: the next slot tells.
            self._pause = (count, span)
        elif is_full:
            if pause is not None:
                count, span = count + pause[0], span + pause[1]
            is_known = self._trusted == 0 and waited <= self._bound * _OFF
            self._full.add(count, span, fading if is_known else 0.0)
            self._light.clear()
            self._trusted, self._proven_until = 0, end + _PROVEN_S
            self.rate = self._full.rate
        else:
            self._light.add(count, span, fading)
            # The greatest of many slots is chance: where it would replace a rate that was proven, what it scatters is
            # taken off.
            is_proven = self.rate > 0 and self._trusted == 0
            rate = self._light.rate - 2 * self._light.scatter if is_proven else count / span
            if rate > self.rate:
                self.rate = rate
                self._full.clear()
            if end > self._proven_until:
                self._trusted = min(self._unknown, _GAIN * self.rate * self._bound)
        self._was_full = is_full
        if self.rate:
            self._pace = 1 / self.rate
        # The first slot is short, so that something is known soon.
        self._slot = max(_SLOT_S, self._own)
        self._since, self._count, self._late, self._took = end, 0, 0, 0.0


class _Slots:
    """Answers and busy seconds of slots, the older ones faded."""

    __slots__ = ("_count", "_seconds")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._count = self._seconds = 0.0

    def add(self, count: int, seconds: float, fading: float) -> None:
        self._count = self._count * fading + count
        self._seconds = self._seconds * fading + seconds

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self._count / self._seconds

    @property
    def scatter(self) -> float:
        """The standard error of `rate`."""
        return math.sqrt(self._count) / self._seconds
