"""From the dictionary that describes a rollout to its message. README.md lists every key with unit and default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phantom.deployer.v1 import rollout_pb2 as messages
from phantom_ml_studio.checks import Reader

STRATEGIES = ("canary", "blue_green", "rolling", "shadow")
SHORTEST_ANALYSIS_S = 10.0
A_DAY_MIN = 1440.0
ON_CONFLICT = ("refuse", "supersede")
_ALWAYS = (
    "replay",
    "approval_required",
    "approvers",
    "approval_timeout_seconds",
    "ready_timeout_seconds",
    "on_conflict",
)
_JUDGED = ("success_criteria", "auto_rollback")
_SWITCHED = (*_JUDGED, "rollback_window_minutes")
KEYS: dict[str, tuple[str, ...]] = {
    "canary": (
        "initial_percentage",
        "target_percentage",
        "increment_percentage",
        "increment_interval_minutes",
        "analysis_interval_seconds",
        "pause_at",
        *_SWITCHED,
        *_ALWAYS,
    ),
    "blue_green": ("pause_before_switch", *_SWITCHED, *_ALWAYS),
    "rolling": ("max_unavailable", "max_surge", *_SWITCHED, *_ALWAYS),
    "shadow": ("percentage", "duration_minutes", "min_agreement", *_JUDGED, *_ALWAYS),
}
_CRITERIA = (
    "error_rate_threshold",
    "latency_p95_threshold",
    "minimum_requests",
    "compare_errors",
    "compare_latency",
    "compare_rejected",
    "quality_margin",
    "max_distribution_distance",
    "level",
    "latency_tolerance",
)
_AUTO_ROLLBACK = ("enabled", "failure_threshold", "rollback_percentage")
_REPLAY = (
    "requests",
    "max_disagreement",
    "max_distribution_distance",
    "max_latency_p95",
    "quality_margin",
)


def to_spec(strategy: str, config: Mapping[str, Any]) -> messages.RolloutSpec:
    """The spec of a strategy (also `blue-green`). Errors: Invalid `invalid_rollout`, naming each wrong key."""
    named = Reader({"strategy": strategy.replace("-", "_")}, "", ("strategy",))
    kind = named.choice("strategy", STRATEGIES, "")
    named.refuse("this is no rollout", "invalid_rollout")
    keys = Reader(config, "", KEYS[kind])
    spec = messages.RolloutSpec(strategy=kind)
    _PLANS[kind](spec, keys)
    _judging(spec, keys)
    _replay(spec, keys)
    _admission(spec, keys)
    keys.refuse("this is no rollout", "invalid_rollout")
    return spec


def _canary(spec: messages.RolloutSpec, keys: Reader) -> None:
    initial = keys.percent("initial_percentage", above=0) or 0.0
    if not keys.has("initial_percentage"):
        keys.wrong("initial_percentage", "is missing")
    target = keys.percent("target_percentage", 100.0, above=0) or 0.0
    if target < initial:
        keys.wrong("target_percentage", f"{target:g} is below initial_percentage ({initial:g})")
    if target > initial and not keys.has("increment_percentage"):
        keys.wrong("increment_percentage", "is missing")
    plan = spec.canary
    plan.initial_percentage, plan.target_percentage = initial, target
    # Without one there is a single step; the plan wants a share all the same.
    plan.increment_percentage = keys.percent("increment_percentage", 100.0, above=0) or 0.0
    plan.interval_s = 60 * keys.needed("increment_interval_minutes", above=0)
    longest = max(plan.interval_s, SHORTEST_ANALYSIS_S)
    plan.analysis_interval_s = (
        keys.number("analysis_interval_seconds", least=SHORTEST_ANALYSIS_S, most=longest) or 0.0
    )
    plan.pause_at.extend(keys.percents("pause_at"))


def _blue_green(spec: messages.RolloutSpec, keys: Reader) -> None:
    spec.blue_green.pause_before_switch = bool(keys.flag("pause_before_switch"))


def _rolling(spec: messages.RolloutSpec, keys: Reader) -> None:
    spec.rolling.SetInParent()
    spec.rolling.max_unavailable = keys.integer("max_unavailable", 0, most=64)
    spec.rolling.max_surge = keys.integer("max_surge", 0, most=64)


def _shadow(spec: messages.RolloutSpec, keys: Reader) -> None:
    if not keys.has("percentage"):
        keys.wrong("percentage", "is missing")
    spec.shadow.percentage = keys.percent("percentage", above=0) or 0.0
    spec.shadow.duration_s = 60 * (keys.number("duration_minutes", above=0) or 0.0)
    spec.shadow.min_agreement = keys.number("min_agreement", above=0, most=1) or 0.0


_PLANS = {"canary": _canary, "blue_green": _blue_green, "rolling": _rolling, "shadow": _shadow}


def _judging(spec: messages.RolloutSpec, keys: Reader) -> None:
    spec.criteria.SetInParent()
    if found := keys.inside("success_criteria", _CRITERIA):
        _criteria(spec.criteria, found)
    rollback = keys.inside("auto_rollback", _AUTO_ROLLBACK) or Reader({}, "", ())
    spec.auto_rollback.enabled = bool(rollback.flag("enabled", True))
    spec.auto_rollback.failure_threshold = rollback.integer("failure_threshold", 3, least=1)
    stays = rollback.percent("rollback_percentage", 0.0, least=0, below=100) or 0.0
    if stays and spec.strategy != "canary":
        rollback.wrong(
            "rollback_percentage", f"a {spec.strategy} rollout has no share to leave; leave it out"
        )
    spec.auto_rollback.rollback_percentage = stays
    window = keys.number("rollback_window_minutes", least=0, most=A_DAY_MIN)
    spec.rollback_window_s = -1.0 if window is None else 60 * window


def _criteria(criteria: messages.SuccessCriteria, keys: Reader) -> None:
    _set(criteria, "error_rate_threshold", keys.number("error_rate_threshold", above=0, below=1))
    _set(criteria, "latency_p95_threshold_ms", keys.number("latency_p95_threshold", above=0))
    _set(criteria, "max_distribution_distance", keys.number("max_distribution_distance", above=0, below=1))
    criteria.minimum_requests = keys.integer("minimum_requests", 0)
    criteria.level = keys.number("level", above=0, below=0.5) or 0.0
    criteria.latency_tolerance = keys.number("latency_tolerance", least=0, most=10) or 0.0
    for name in ("compare_errors", "compare_latency", "compare_rejected"):
        _set(criteria, name, keys.flag(name))
    # False switches the comparison off; absent, the server compares wherever the model declares outcomes.
    is_off = keys.raw("quality_margin") is False
    margin = -1.0 if is_off else keys.number("quality_margin", above=0, most=1)
    _set(criteria, "quality_margin", margin)


def _replay(spec: messages.RolloutSpec, keys: Reader) -> None:
    found = keys.inside("replay", _REPLAY)
    if found is None:
        return
    if not found.has("requests"):
        found.wrong("requests", "is missing: how many of the endpoint's newest requests")
    spec.replay.requests = found.integer("requests", 0, least=1, most=100_000)
    _set(spec.replay, "max_disagreement", found.number("max_disagreement", least=0, most=1))
    _set(spec.replay, "max_distribution_distance", found.number("max_distribution_distance", least=0, most=1))
    _set(spec.replay, "max_latency_p95_ms", found.number("max_latency_p95", above=0))
    _set(spec.replay, "quality_margin", found.number("quality_margin", least=0, most=1))


def _admission(spec: messages.RolloutSpec, keys: Reader) -> None:
    spec.approval_required = bool(keys.flag("approval_required"))
    spec.approvers.extend(keys.texts("approvers"))
    for name in ("approvers", "approval_timeout_seconds"):
        if keys.has(name) and keys.raw(name) != [] and not spec.approval_required:
            keys.wrong(name, "has no meaning unless approval_required is True")
    spec.approval_timeout_s = keys.number("approval_timeout_seconds", above=0) or 0.0
    spec.ready_timeout_s = keys.number("ready_timeout_seconds", above=0) or 0.0
    spec.on_conflict = keys.choice("on_conflict", ON_CONFLICT, "refuse")


def _set(message: Any, name: str, value: float | bool | None) -> None:
    """Leaves an optional field absent where there is no value."""
    if value is not None:
        setattr(message, name, value)
