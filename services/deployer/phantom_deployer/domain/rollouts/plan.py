"""The shares of a canary's steps, basis points."""

from __future__ import annotations

from phantom_deployer.domain.rollouts.spec import CanaryPlan
from phantom_statistics.assignment import BUCKETS


def shares(plan: CanaryPlan) -> tuple[int, ...]:
    """Initial, initial + increment, ... clipped to the target: 1 % to 100 % by 5 % are 21 steps."""
    return onward(bp(plan.initial_percentage), plan, until=bp(plan.target_percentage))


def onward(first: int, plan: CanaryPlan, *, until: int = BUCKETS) -> tuple[int, ...]:
    """From `first` by the increment up to `until`."""
    return (*range(first, until, bp(plan.increment_percentage)), until)


def bp(percent: float) -> int:
    """Of a share that was checked."""
    return round(percent * 100)


def pauses(plan: CanaryPlan) -> frozenset[int]:
    """Shares at which to wait for somebody."""
    return frozenset(bp(each) for each in plan.pause_at)
