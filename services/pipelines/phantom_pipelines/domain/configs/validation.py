"""`validation`: is this version good, fast and harmless enough."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_pipelines.domain.configs.deployment import Replay
from phantom_pipelines.domain.reading import Reader


@dataclass(frozen=True)
class Replaying:
    """Past requests of a deployment, or of the model's only one in an environment."""

    replay: Replay
    environment: str = ""
    endpoint: str = ""

    @classmethod
    def read(cls, reader: Reader) -> Replaying | None:
        section = reader.section("replay")
        if section is None:
            return None
        found = cls(
            Replay.read(section),
            environment=section.text("environment", kind="resource_id"),
            endpoint=section.text("endpoint", kind="resource_id"),
        )
        if section.has("environment") == section.has("endpoint"):
            section.wrong("", "needs one of environment and endpoint: whose past requests are meant")
        section.end()
        return found


@dataclass(frozen=True)
class ValidationConfig:
    """None: not checked. An empty dataset: the version's lineage dataset with role `evaluation`."""

    # 0..1; the lower end of the interval must reach it.
    min_accuracy: float | None = None
    # ms; p95 of single rows, one in flight.
    max_latency_ms: float | None = None
    # Requests a second with 32 in flight.
    min_throughput: float | None = None
    security_scan: bool = False
    dependency_check: bool = False
    # Without a list of known-bad versions the dependency check fails instead of saying so only.
    require_advisories: bool = False
    replay: Replaying | None = None
    dataset: str = ""
    dataset_version: str = ""
    # Column with the true label or value; empty: the model schema's outcome field.
    expected_column: str = ""

    @classmethod
    def read(cls, reader: Reader) -> ValidationConfig:
        limits = reader.section("performance_checks") or Reader({}, "")
        found = cls(
            min_accuracy=limits.number("min_accuracy", above=0, most=1),
            max_latency_ms=limits.number("max_latency", above=0),
            min_throughput=limits.number("min_throughput", above=0),
            security_scan=reader.flag("security_scan"),
            dependency_check=reader.flag("dependency_check"),
            require_advisories=reader.flag("require_advisories"),
            replay=Replaying.read(reader),
            dataset=reader.text("dataset", kind="name"),
            dataset_version=reader.text("dataset_version", longest=128),
            expected_column=reader.text("expected_column", longest=200),
        )
        limits.end()
        if found.dataset_version and not found.dataset:
            reader.wrong("dataset_version", "is of no dataset; name it as `dataset`")
        if found.require_advisories and not found.dependency_check:
            reader.wrong("require_advisories", "is for dependency_check: true")
        if not found.checks and not reader.problems and not reader.has_strangers:
            reader.wrong(
                "",
                "checks nothing; give performance_checks, security_scan: true, dependency_check: true or replay",
            )
        return found

    @property
    def checks(self) -> tuple[str, ...]:
        """What it checks, by name, in this order: what is harmful is not run."""
        asked = {
            "security_scan": self.security_scan,
            "dependency_check": self.dependency_check,
            "accuracy": self.min_accuracy is not None,
            "latency": self.max_latency_ms is not None,
            "throughput": self.min_throughput is not None,
            "replay": self.replay is not None,
        }
        return tuple(name for name, is_asked in asked.items() if is_asked)
