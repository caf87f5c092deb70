"""How the level of a whole rollout is divided among what can roll it back."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_statistics.rollouts.criteria import Criteria

# Weights of what is on: four tests alike, of which the fourth is two (accuracy, log loss), and small ones.
_ERRORS, _LATENCY, _REJECTED, _QUALITY, _DISTANCE, _THRESHOLD = 5.0, 5.0, 2.5, 2.5, 0.5, 1.0
# Of the level, to each measurement against a threshold. Three in a step must fail, and the stable revision is inside.
_MEASUREMENT = 0.02


@dataclass(frozen=True, slots=True)
class Levels:
    """The level of each test, zero where nothing acts on it; with the thresholds' they add up to the whole."""

    errors: float
    latency: float
    rejected: float
    accuracy: float
    log_loss: float
    distance: float


def of_tests(criteria: Criteria) -> Levels:
    """The level divided by weight among the criteria that are on; what is only reported gets what it would."""
    quality = criteria.quality_margin is not None
    weights = {
        "errors": _ERRORS * criteria.compare_errors,
        "latency": _LATENCY * criteria.compare_latency,
        "rejected": _REJECTED * criteria.compare_rejected,
        "accuracy": _QUALITY * quality,
        "log_loss": _QUALITY * quality,
        "distance": _DISTANCE,
    }
    thresholds = [criteria.error_rate_threshold, criteria.latency_p95_threshold_ms]
    whole = sum(weights.values()) + _THRESHOLD * sum(each is not None for each in thresholds)
    return Levels(**{name: criteria.level * weight / whole for name, weight in weights.items()})


def of_measurement(criteria: Criteria) -> float:
    """The level of one measurement against one threshold."""
    return criteria.level * _MEASUREMENT
