"""What a rollout is judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """The criteria that are on; None switches one off. ValueError names what cannot be judged."""

    error_rate_threshold: float | None = None  # share of calls, 0..1
    latency_p95_threshold_ms: float | None = None
    minimum_requests: int = 0  # of the candidate in a step before the step can pass
    compare_errors: bool = True  # with the stable revision at the same time
    compare_latency: bool = True
    compare_rejected: bool = True
    latency_tolerance: float = 0.0  # share of the stable p95 by which the candidate's may be higher
    quality_margin: float | None = None  # of accuracy (share) and log loss (nats)
    max_distribution_distance: float | None = None  # 0..1; None reports the distance and never judges it
    level: float = 0.05  # probability of a rollback in the whole rollout of a candidate that is no different

    def __post_init__(self) -> None:
        _check_share("error_rate_threshold", self.error_rate_threshold)
        _check_share("max_distribution_distance", self.max_distribution_distance)
        for name in ("latency_p95_threshold_ms", "quality_margin"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is a positive number, not {value}")
        if not 0 <= self.latency_tolerance <= 10:
            raise ValueError(f"latency_tolerance is a share from 0 to 10, not {self.latency_tolerance}")
        if self.minimum_requests < 0:
            raise ValueError(f"minimum_requests is not negative, but {self.minimum_requests}")
        if not 0 < self.level < 0.5:
            raise ValueError(f"level is a probability above 0 and below 0.5, not {self.level}")


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value < 1:
        raise ValueError(f"{name} is a share from 0 to below 1, not {value}")
