"""What the pipelines service counts, on a registry that is handed in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The service's collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stages = Counter(
            "phantom_pipelines_stages",
            "Attempts at stages by type and how they ended: succeeded, failed, undone, interrupted, postponed",
            ["type", "outcome"],
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "phantom_pipelines_stage_seconds",
            "Time of an attempt at a stage, by type",
            ["type"],
            buckets=(0.1, 1, 5, 15, 60, 300, 1800, 7200),
            registry=registry,
        )
        self.driving = Gauge(
            "phantom_pipelines_driving", "Executions that this process is working on", registry=registry
        )
