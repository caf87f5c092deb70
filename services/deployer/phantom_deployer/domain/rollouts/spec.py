"""How a version is brought in: values as callers give them, shares in percent, times in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from phantom_platform.errors import Invalid, Violation
from phantom_platform.ids import check_principal
from phantom_statistics.assignment import BUCKETS

StrategyName = Literal["canary", "blue_green", "rolling", "shadow"]
OnConflict = Literal["refuse", "supersede"]

STRATEGIES = ("canary", "blue_green", "rolling", "shadow")
ON_CONFLICT = ("refuse", "supersede")
APPROVAL_TIMEOUT_S = 86_400.0
READY_TIMEOUT_S = 600.0
LEVEL = 0.05
FAILURE_THRESHOLD = 3
# How long the old colour stays warm unless something else is asked for, s.
BLUE_GREEN_WINDOW_S = 60.0
LONGEST_WINDOW_S = 86_400.0
# Measurements are made of windows of 5 s.
SHORTEST_ANALYSIS_S = 10.0
# Of strategies without an interval: an hour of watching should not wait for minutes to see a failure.
LONGEST_ANALYSIS_S = 60.0
MOST_STEPS = 1000
MOST_REPLAYED = 100_000


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """Shares initial, initial + increment, ... clipped to target, each for `interval_s`."""

    initial_percentage: float
    target_percentage: float
    increment_percentage: float
    interval_s: float
    # 0: a fifth of the interval, at least 10.
    analysis_interval_s: float = 0.0
    pause_at: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BlueGreenPlan:
    pause_before_switch: bool = False


@dataclass(frozen=True, slots=True)
class RollingPlan:
    max_unavailable: int = 0
    max_surge: int = 0


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    percentage: float
    duration_s: float = 0.0
    min_agreement: float = 0.0


@dataclass(frozen=True, slots=True)
class SuccessCriteria:
    """None: not judged. `quality_margin` None: the default where outcomes are declared; negative: off."""

    error_rate_threshold: float | None = None
    latency_p95_threshold_ms: float | None = None
    minimum_requests: int = 0
    compare_errors: bool = True
    compare_latency: bool = True
    compare_rejected: bool = True
    quality_margin: float | None = None
    max_distribution_distance: float | None = None
    level: float = LEVEL
    latency_tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class AutoRollback:
    enabled: bool = True
    failure_threshold: int = FAILURE_THRESHOLD
    rollback_percentage: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    requests: int
    max_disagreement: float | None = None
    max_distribution_distance: float | None = None
    max_latency_p95_ms: float | None = None
    quality_margin: float | None = None

    @property
    def has_limits(self) -> bool:
        """Whether it can fail by more than answers that were not given."""
        limits = (
            self.max_disagreement,
            self.max_distribution_distance,
            self.max_latency_p95_ms,
            self.quality_margin,
        )
        return any(each is not None for each in limits)


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """Checked by `check`. The plan of the chosen strategy, where it needs one, and no other's."""

    strategy: StrategyName
    canary: CanaryPlan | None = None
    blue_green: BlueGreenPlan | None = None
    rolling: RollingPlan | None = None
    shadow: ShadowPlan | None = None
    criteria: SuccessCriteria = field(default_factory=SuccessCriteria)
    auto_rollback: AutoRollback = field(default_factory=AutoRollback)
    replay: ReplayPlan | None = None
    approval_required: bool = False
    approvers: tuple[str, ...] = ()
    approval_timeout_s: float = APPROVAL_TIMEOUT_S
    ready_timeout_s: float = READY_TIMEOUT_S
    # Negative: the longer of the interval and the maturity of outcomes.
    rollback_window_s: float = -1.0
    on_conflict: OnConflict = "refuse"

    @property
    def interval_s(self) -> float:
        """The length of a step; 0 where the strategy has none."""
        if self.canary is not None:
            return self.canary.interval_s
        return self.shadow.duration_s if self.shadow is not None else 0.0

    def window_s(self, maturity_s: float) -> float:
        """How long the old revision stays warm at 100 %."""
        if self.rollback_window_s >= 0:
            return self.rollback_window_s
        usual_s = BLUE_GREEN_WINDOW_S if self.blue_green is not None else self.interval_s
        return min(max(usual_s, maturity_s), LONGEST_WINDOW_S)

    def analysis_s(self, length_s: float) -> float:
        """The length of a measurement in a step of that length: a fifth of a canary's interval, at 100 % too."""
        if self.canary is not None:
            asked = self.canary.analysis_interval_s
            return asked or max(SHORTEST_ANALYSIS_S, self.canary.interval_s / 5)
        return min(max(SHORTEST_ANALYSIS_S, length_s / 5), LONGEST_ANALYSIS_S)


def check(spec: RolloutSpec) -> None:
    """Raises `invalid_rollout` naming every field that cannot be honoured."""
    violations = [Violation(f"spec.{name}", problem) for name, problem in _problems(spec)]
    if violations:
        raise Invalid(code="invalid_rollout", violations=violations)


def is_share(percent: float, *, least: float = 0.0) -> bool:
    """From `least` to 100 percent, in steps of 0.01."""
    if not math.isfinite(percent) or not least <= percent <= 100:
        return False
    return abs(percent * 100 - round(percent * 100)) < 1e-6 and round(percent * 100) <= BUCKETS


Problems = Iterator[tuple[str, str]]


def _problems(spec: RolloutSpec) -> Problems:
    if spec.strategy not in STRATEGIES:
        yield "strategy", f"{spec.strategy!r} is none; use one of: {', '.join(STRATEGIES)}"
    for name in STRATEGIES:
        if name != spec.strategy and getattr(spec, name) is not None:
            yield name, f"is the plan of another strategy than {spec.strategy!r}; leave it out"
    if spec.canary is not None:
        yield from _canary(spec.canary)
    elif spec.strategy == "canary":
        yield "canary", "is needed: the shares and the interval of its steps"
    if spec.rolling is not None:
        yield from _rolling(spec.rolling)
    if spec.shadow is not None:
        yield from _shadow(spec.shadow)
    elif spec.strategy == "shadow":
        yield "shadow", "is needed: the share of the calls to copy"
    yield from _criteria(spec.criteria)
    yield from _auto_rollback(spec)
    if spec.replay is not None:
        yield from _replay(spec.replay)
    yield from _approval(spec)
    if spec.on_conflict not in ON_CONFLICT:
        yield "on_conflict", f"{spec.on_conflict!r} is none; use one of: {', '.join(ON_CONFLICT)}"


def _canary(plan: CanaryPlan) -> Problems:
    for name in ("initial_percentage", "target_percentage", "increment_percentage"):
        if not is_share(getattr(plan, name), least=0.01):
            yield f"canary.{name}", "must be a share from 0.01 to 100 percent, in steps of 0.01"
    if plan.initial_percentage > plan.target_percentage:
        yield "canary.initial_percentage", "is larger than target_percentage"
    if not _is_time(plan.interval_s):
        yield "canary.interval_s", "must be a positive number of seconds"
    elif is_share(plan.increment_percentage, least=0.01):
        steps = (plan.target_percentage - plan.initial_percentage) / plan.increment_percentage
        if steps >= MOST_STEPS:
            yield "canary.increment_percentage", f"makes more than {MOST_STEPS} steps"
    if plan.analysis_interval_s and not (
        SHORTEST_ANALYSIS_S <= plan.analysis_interval_s <= max(plan.interval_s, SHORTEST_ANALYSIS_S)
    ):
        yield (
            "canary.analysis_interval_s",
            "must be from 10 s to the interval; leave it out for a fifth of it",
        )
    yield from _pauses(plan)


def _pauses(plan: CanaryPlan) -> Problems:
    last = plan.target_percentage
    for each in plan.pause_at:
        if not is_share(each, least=0.01) or not plan.initial_percentage <= each < last:
            yield (
                "canary.pause_at",
                f"{each:g} is no share from initial_percentage up to below target_percentage",
            )
        elif plan.increment_percentage > 0:
            steps = round((each - plan.initial_percentage) / plan.increment_percentage, 6)
            if steps != int(steps):
                yield "canary.pause_at", f"{each:g} is the share of no step"


def _rolling(plan: RollingPlan) -> Problems:
    for name in ("max_unavailable", "max_surge"):
        if getattr(plan, name) < 0:
            yield f"rolling.{name}", "must not be negative"


def _shadow(plan: ShadowPlan) -> Problems:
    if not is_share(plan.percentage, least=0.01):
        yield "shadow.percentage", "must be a share from 0.01 to 100 percent, in steps of 0.01"
    if plan.duration_s and not _is_time(plan.duration_s):
        yield "shadow.duration_s", "must be a positive number of seconds, or 0 to go on until it is ended"
    if not _is_ratio(plan.min_agreement):
        yield "shadow.min_agreement", "must be from 0 to 1"


def _criteria(criteria: SuccessCriteria) -> Problems:
    rate, p95 = criteria.error_rate_threshold, criteria.latency_p95_threshold_ms
    if rate is not None and not 0 < rate < 1:
        yield "criteria.error_rate_threshold", "must be a share between 0 and 1 (0.01 is one percent)"
    if p95 is not None and not (math.isfinite(p95) and p95 > 0):
        yield "criteria.latency_p95_threshold_ms", "must be a positive number of milliseconds"
    if criteria.minimum_requests < 0:
        yield "criteria.minimum_requests", "must not be negative"
    margin, distance = criteria.quality_margin, criteria.max_distribution_distance
    if margin is not None and not (math.isfinite(margin) and margin <= 1 and margin):
        yield "criteria.quality_margin", "must be above 0, and at most 1; negative turns the comparison off"
    if distance is not None and not 0 < distance < 1:
        yield "criteria.max_distribution_distance", "must be above 0, and below 1"
    if not 0 < criteria.level < 0.5:
        yield "criteria.level", "must be a probability above 0, and below 0.5"
    if not 0 <= criteria.latency_tolerance <= 10:
        yield "criteria.latency_tolerance", "must be a share from 0 to 10 of the stable p95"
    elif criteria.latency_tolerance and not criteria.compare_latency:
        yield "criteria.latency_tolerance", "is of compare_latency, which is off; leave it out"


def _auto_rollback(spec: RolloutSpec) -> Problems:
    auto = spec.auto_rollback
    if auto.failure_threshold < 1:
        yield "auto_rollback.failure_threshold", "must be at least 1"
    if not is_share(auto.rollback_percentage) or auto.rollback_percentage >= 100:
        yield "auto_rollback.rollback_percentage", "must be a share from 0 to below 100, in steps of 0.01"
    elif auto.rollback_percentage and spec.canary is None:
        yield (
            "auto_rollback.rollback_percentage",
            f"a {spec.strategy} rollout has no share to leave; leave it out",
        )


def _replay(plan: ReplayPlan) -> Problems:
    if not 1 <= plan.requests <= MOST_REPLAYED:
        yield "replay.requests", f"must be from 1 to {MOST_REPLAYED:,}"
    for name in ("max_disagreement", "max_distribution_distance"):
        value = getattr(plan, name)
        if value is not None and not _is_ratio(value):
            yield f"replay.{name}", "must be from 0 to 1"
    if plan.max_latency_p95_ms is not None and not _is_time(plan.max_latency_p95_ms):
        yield "replay.max_latency_p95_ms", "must be a positive number of milliseconds"
    if plan.quality_margin is not None and not _is_ratio(plan.quality_margin):
        yield "replay.quality_margin", "must be from 0 to 1"


def _approval(spec: RolloutSpec) -> Problems:
    if spec.approvers and not spec.approval_required:
        yield "approvers", "are given, but approval_required is not"
    for each in spec.approvers:
        try:
            check_principal(each, "approvers")
        except Invalid:
            yield "approvers", f"{each!r} is no principal"
    for name in ("approval_timeout_s", "ready_timeout_s"):
        if not _is_time(getattr(spec, name)):
            yield name, "must be a positive number of seconds"
    window = spec.rollback_window_s
    if not math.isfinite(window) or window > LONGEST_WINDOW_S:
        yield "rollback_window_s", f"must be at most {LONGEST_WINDOW_S:,.0f} s; negative for the default"


def _is_time(value: float) -> bool:
    return math.isfinite(value) and 0 < value <= 366 * 86_400


def _is_ratio(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= 1
