"""What the platform counts about events, on a registry that the process hands in."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge


class PlatformMetrics:
    """Collectors on `registry`. Services that share a process share them: use `of`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outbox_depth = Gauge(
            "phantom_outbox_depth",
            "Events committed and not yet acknowledged by Kafka",
            ["service"],
            registry=registry,
        )
        self.published = Counter(
            "phantom_outbox_published",
            "Events acknowledged by Kafka",
            ["service", "topic"],
            registry=registry,
        )
        self.consumed = Counter(
            "phantom_consumer_records",
            "Records read, by what became of them: applied, skipped, duplicate, dead, retried",
            ["group", "topic", "outcome"],
            registry=registry,
        )
        self.lag = Gauge(
            "phantom_consumer_lag_records",
            "Records of a partition not yet applied",
            ["group", "topic", "partition"],
            registry=registry,
        )
        self.bad_records = Counter(
            "phantom_projection_bad_records",
            "Records of a compacted topic that could not be applied; the last good one is kept",
            ["topic"],
            registry=registry,
        )


_by_registry: WeakKeyDictionary[CollectorRegistry, PlatformMetrics] = WeakKeyDictionary()


def of(registry: CollectorRegistry | None) -> PlatformMetrics:
    """The one set of collectors of a registry; without a registry, a set that nobody scrapes."""
    if registry is None:
        return PlatformMetrics(CollectorRegistry())
    found = _by_registry.get(registry)
    if found is None:
        found = _by_registry[registry] = PlatformMetrics(registry)
    return found
