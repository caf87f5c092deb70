"""What the registry counts, on the registry of collectors that the process hands in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class Metrics:
    """Collectors on `registry`; one instance a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.uploads = Counter(
            "phantom_registry_uploads",
            "Uploads of artifacts by how they ended: stored, refused, aborted",
            ["outcome"],
            registry=registry,
        )
        self.received_bytes = Counter(
            "phantom_registry_received_bytes", "Bytes of artifacts received", registry=registry
        )
