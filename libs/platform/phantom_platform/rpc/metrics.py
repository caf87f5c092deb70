"""What the server counts about calls, on the registry it is given."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RpcMetrics:
    """One set a registry: two servers that share a registry are refused by it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        by_method, by_code = ("service", "method"), ("service", "method", "code")
        self.started = Counter("phantom_rpc_started", "Calls begun.", by_method, registry=registry)
        self.handled = Counter(
            "phantom_rpc_handled", "Calls ended, by status code.", by_code, registry=registry
        )
        self.in_flight = Gauge("phantom_rpc_in_flight", "Calls being handled.", registry=registry)
        self.seconds = Histogram(
            "phantom_rpc_handling_seconds",
            "From the request's arrival to the end of the answer.",
            by_code,
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.mutated = Counter(
            "phantom_rpc_mutated", "Mutating calls that succeeded.", by_method, registry=registry
        )
        self.unaudited = Counter(
            "phantom_rpc_unaudited",
            "Mutating calls that succeeded without an audit record: repeats that changed nothing, or a mistake.",
            by_method,
            registry=registry,
        )
        self.audits_lost = Counter(
            "phantom_rpc_audits_lost", "Refusals that could not be audited.", by_method, registry=registry
        )
