"""Which arm a unit gets: a salted hash into 10,000 buckets, and ranges of buckets that belong to arms.

Anyone can recompute a decision offline with these functions. An *allocation* is a range `[start, end)` of
buckets that belongs to a treatment; whatever no allocation covers is control. The **order** of allocations is
the order in which they were taken, and lowering an arm gives back what it took last; so keep the order when
you store them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xxhash

BUCKETS = 10_000
CONTROL = "control"


class AssignmentError(ValueError):
    """A unit, salt, share or allocation that cannot be honoured; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Buckets `start` (included) to `end` (excluded) belong to `arm`."""

    start: int
    end: int
    arm: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a unit gets its arm, step by step, as plain values."""

    salt: str
    unit: str
    hashed: str  # the text that was hashed
    hash: int  # unsigned 64 bit, xxh3 with seed 0
    bucket: int  # hash % 10000
    arm: str
    allocation: Allocation | None  # the range that holds the bucket; None is control


def unit_text(value: object) -> str:
    """The text of a unit key: strings verbatim, integers decimal, booleans `true`/`false`, None empty.

    An empty text means that there is no unit. Floating point is refused: its text differs between systems.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise AssignmentError(
        f"a unit key is a string, an integer or a boolean, not {type(value).__name__} ({value!r:.80}); "
        "send it as a string"
    )


def bucket(salt: str, unit: str) -> int:
    """The unit's bucket under the salt, 0 to 9,999."""
    return _hash(salt, unit) % BUCKETS


def buckets(salt: str, units: Iterable[str]) -> np.ndarray:
    """The buckets of many units under one salt, int64 [units]."""
    prefix = _salt_prefix(salt)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(prefix + unit.encode()) % BUCKETS for unit in units), dtype=np.int64)


def arm_of(allocations: Sequence[Allocation], bucket: int) -> str:
    """The arm that owns the bucket; control where no allocation does."""
    for allocation in allocations:
        if allocation.start <= bucket < allocation.end:
            return allocation.arm
    return CONTROL


def share_of(allocations: Sequence[Allocation], arm: str) -> int:
    """The arm's share in basis points (hundredths of a percent, one a bucket)."""
    if arm == CONTROL:
        return BUCKETS - sum(each.end - each.start for each in allocations)
    return sum(each.end - each.start for each in allocations if each.arm == arm)


def explain(allocations: Sequence[Allocation], salt: str, unit: str) -> Explanation:
    """The arithmetic of one decision."""
    hashed = _hash(salt, unit)
    place = hashed % BUCKETS
    holder = next((each for each in allocations if each.start <= place < each.end), None)
    arm = holder.arm if holder else CONTROL
    return Explanation(salt, unit, f"{salt}:{unit}", hashed, place, arm, holder)


def check(allocations: Sequence[Allocation]) -> None:
    """Raise AssignmentError unless the ranges are inside [0, 10000), not empty and disjoint."""
    for each in allocations:
        if not 0 <= each.start < each.end <= BUCKETS:
            raise AssignmentError(
                f"the range [{each.start}, {each.end}) of {each.arm!r} is not inside [0, {BUCKETS})"
            )
        if not each.arm or each.arm == CONTROL:
            raise AssignmentError(f"the range [{each.start}, {each.end}) needs the name of a treatment")
    ordered = sorted(allocations, key=lambda each: each.start)
    for left, right in pairwise(ordered):
        if right.start < left.end:
            raise AssignmentError(f"the ranges {left} and {right} overlap")


def reallocate(allocations: Sequence[Allocation], shares: Mapping[str, int]) -> tuple[Allocation, ...]:
    """New allocations in which each treatment has its share (basis points); one that is not named has none.

    A raised arm takes the lowest buckets that *were* control, a lowered one gives back what it took last. So
    no unit moves between treatments, whatever changes at once; where that leaves too few control buckets,
    lower one arm first and raise the other in a second step. Arms are raised in the order of their names.
    """
    check(allocations)
    _check_shares(shares)
    free = _control_ranges(allocations)
    kept = _lowered(allocations, shares)
    for arm in sorted(shares):
        wanted = shares[arm] - share_of(kept, arm)
        for start, end in _take(free, wanted, arm):
            _append(kept, Allocation(start, end, arm))
    return tuple(kept)


def _hash(salt: str, unit: str) -> int:
    return xxhash.xxh3_64_intdigest(_salt_prefix(salt) + unit.encode())


def _salt_prefix(salt: str) -> bytes:
    if ":" in salt:
        raise AssignmentError(f"the salt {salt!r:.80} contains a colon, which separates it from the unit")
    return salt.encode() + b":"


def _check_shares(shares: Mapping[str, int]) -> None:
    for arm, share in shares.items():
        if arm == CONTROL or not arm:
            raise AssignmentError("shares name treatments only; control has what is left")
        if isinstance(share, bool) or not isinstance(share, int) or not 0 <= share <= BUCKETS:
            raise AssignmentError(
                f"the share of {arm!r} is {share!r}, not whole basis points from 0 to {BUCKETS}"
            )
    if sum(shares.values()) > BUCKETS:
        raise AssignmentError(f"the shares add up to {sum(shares.values())} of {BUCKETS} basis points")


def _control_ranges(allocations: Sequence[Allocation]) -> list[tuple[int, int]]:
    ranges, place = [], 0
    for each in sorted(allocations, key=lambda each: each.start):
        if each.start > place:
            ranges.append((place, each.start))
        place = each.end
    if place < BUCKETS:
        ranges.append((place, BUCKETS))
    return ranges


def _lowered(allocations: Sequence[Allocation], shares: Mapping[str, int]) -> list[Allocation]:
    surplus = {each.arm: share_of(allocations, each.arm) - shares.get(each.arm, 0) for each in allocations}
    kept: list[Allocation] = []
    for each in reversed(allocations):  # what was taken last goes first
        given = max(0, min(surplus[each.arm], each.end - each.start))
        surplus[each.arm] -= given
        if each.end - given > each.start:
            kept.append(Allocation(each.start, each.end - given, each.arm))
    kept.reverse()
    return kept


def _take(free: list[tuple[int, int]], wanted: int, arm: str) -> list[tuple[int, int]]:
    taken = []
    while wanted > 0:
        if not free:
            raise AssignmentError(
                f"{wanted} of the basis points wanted for {arm!r} belong to other treatments, and no unit "
                "moves between treatments: lower those first, then raise this one in a step of its own"
            )
        start, end = free.pop(0)
        upto = min(end, start + wanted)
        taken.append((start, upto))
        wanted -= upto - start
        if upto < end:
            free.insert(0, (upto, end))
    return taken


def _append(kept: list[Allocation], new: Allocation) -> None:
    """Append the newest range, grown onto the arm's previous one where the two touch."""
    previous = next((place for place in reversed(range(len(kept))) if kept[place].arm == new.arm), None)
    if previous is not None and kept[previous].end == new.start:
        kept[previous] = Allocation(kept[previous].start, new.end, new.arm)
    else:
        kept.append(new)
