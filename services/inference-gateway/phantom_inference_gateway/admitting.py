"""Whether a call joins a replica's queue: it is sent elsewhere within its revision, or refused where all are too long.

A refused call is never sent to another revision: that would move a candidate's overload onto the stable one, and
calls of an experiment's arm out of it. It leaves no record, as everything shed at a queue (contracts §1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from phantom_inference_gateway.attempts import Target
from phantom_inference_gateway.domain.admission import Overload
from phantom_platform.errors import Exhausted

CODE = "overloaded"
MIN_RETRY_S, MAX_RETRY_S = 1.0, 30.0


class Overloaded(Exhausted):
    """The replicas have too much to do for this call to be answered in time; try again later."""

    default_code = CODE
    # Which bound the expected wait exceeds: wait, or deadline.
    why = "wait"


def another(targets: Iterable[Target], busy: Target, now: float, deadline: float) -> Target | None:
    """A replica other than `busy` whose queue the call may join."""
    for each in targets:
        if each is not busy and each.is_open(now) and each.gate.admit(each.outstanding, now, deadline):
            return each
    return None


def refusal(revision: str, found: Overload) -> Overloaded:
    """What the client of a call is told that `found` keeps out."""
    wait = f"{found.wait_s:.2f} s" if math.isfinite(found.wait_s) else "a time that is not known"
    bound = (
        f"{found.bound_s:.2f} s that its deadline allows" if found.is_deadline else f"{found.bound_s:.2f} s"
    )
    rate = (
        f"{found.rate:.3g} calls/s are answered"
        if found.rate
        else "how fast they are answered is not known yet"
    )
    error = Overloaded(
        f"revision {revision} has too much to do: {found.outstanding} calls are outstanding at the replica that "
        f"would take this one and {rate}, so its answer is to be expected in {wait}, later than the {bound}; send "
        "less, or try again later",
        retry_after_s=round(min(MAX_RETRY_S, max(MIN_RETRY_S, found.wait_s)), 1),
        revision=revision,
        outstanding=found.outstanding,
        rate=f"{found.rate:.6g}",
        expected_wait_s=f"{found.wait_s:.3f}",
        max_wait_s=f"{found.bound_s:.3f}",
    )
    error.why = "deadline" if found.is_deadline else "wait"
    return error
