"""What governance counts."""

from prometheus_client import CollectorRegistry, Counter


class GovernanceMetrics:
    """`outcome`: ok, wrong (name or secret), blocked (too many failures)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.logins = Counter(
            "phantom_governance_logins", "Attempts to get a token.", ("kind", "outcome"), registry=registry
        )
