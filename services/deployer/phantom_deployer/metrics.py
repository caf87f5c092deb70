"""What the deployer counts, on a registry that is handed in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The deployer's collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.gateways = Gauge(
            "phantom_deployer_gateways",
            "Gateway processes that joined and did not leave, by state: live or silent",
            ["state"],
            registry=registry,
        )
        self.bad_acks = Counter(
            "phantom_deployer_bad_acks", "Records of route-acks that could not be read", registry=registry
        )
        self.replicas = Gauge(
            "phantom_deployer_replicas",
            "Replicas by deployment and phase",
            ["workspace", "deployment", "phase"],
            registry=registry,
        )
        self.effects = Counter(
            "phantom_deployer_effects",
            "What was done to processes, by kind and outcome: done or failed",
            ["kind", "outcome"],
            registry=registry,
        )
        self.pass_seconds = Histogram(
            "phantom_deployer_pass_seconds",
            "Time of one reconcile pass of one deployment",
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10),
            registry=registry,
        )
        self.rollouts = Gauge("phantom_deployer_rollouts", "Rollouts by state", ["state"], registry=registry)
        self.rollback_seconds = Histogram(
            "phantom_deployer_rollback_seconds",
            "From the decision to roll back to the last gateway's acknowledgement",
            buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
            registry=registry,
        )
