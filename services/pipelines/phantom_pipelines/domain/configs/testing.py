"""`testing`: a suite of cases against what was deployed."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_pipelines.domain.reading import Reader

DEFAULT_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class TestingConfig:
    """Without `environment` and `endpoint`: what the last deployment stage before it deployed."""

    __test__ = False  # for pytest

    test_suite: str = ""
    # A registered dataset instead of the suite's.
    test_data: str = ""
    test_data_version: str = ""
    environment: str = ""
    # A deployment's id; empty: the model's in the environment.
    endpoint: str = ""
    # 0..1
    test_pass_rate: float = 1.0
    # Relative worsening of p95 and of accuracy against the version served before, 0..; None: not checked.
    performance_degradation: float | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S

    @classmethod
    def read(cls, reader: Reader) -> TestingConfig:
        criteria = reader.section("success_criteria") or Reader({}, "")
        pass_rate = criteria.number("test_pass_rate", above=0, most=1)
        found = cls(
            test_suite=reader.text("test_suite", kind="name"),
            test_data=reader.text("test_data", kind="name"),
            test_data_version=reader.text("test_data_version", longest=128),
            environment=reader.text("environment", kind="resource_id"),
            endpoint=reader.text("endpoint", kind="resource_id"),
            test_pass_rate=1.0 if pass_rate is None else pass_rate,
            performance_degradation=criteria.number("performance_degradation", above=0),
            timeout_s=reader.number("timeout", above=0, most=86_400) or DEFAULT_TIMEOUT_S,
        )
        criteria.end()
        if not reader.has("test_suite"):
            reader.wrong("test_suite", "is missing; name a registered test suite")
        if found.test_data_version and not found.test_data:
            reader.wrong("test_data_version", "is of no dataset; name it as `test_data`")
        return found
