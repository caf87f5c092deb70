"""Test suites: cases of requests and expectations, taken from a registered dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from phantom_platform.errors import AlreadyExists, Invalid, Violation
from phantom_platform.ids import check_name

SUFFIX = "_tests"


@dataclass(frozen=True)
class Suite:
    """An empty `dataset_version`: the newest when it runs. An empty `expected_column`: the schema's outcome field."""

    name: str
    dataset: str
    created_at: datetime
    created_by: str
    dataset_version: str = ""
    expected_column: str = ""
    # Regression: how far from the expected value still passes.
    tolerance: float = 0.0
    # Empty: the row's number.
    id_column: str = ""
    # Evenly spread over the dataset; 0: all.
    max_cases: int = 0
    description: str = ""


@dataclass(frozen=True)
class FailedCase:
    """A case that did not pass; `error` says why there is no answer, where there is none."""

    case_id: str
    expected: str
    got: str
    error: str = ""


@dataclass(frozen=True)
class SuiteRun:
    """A suite against one endpoint. `pass_rate_lower` is the interval's lower end; `failures` are the first ones."""

    suite: str
    endpoint: str
    model_version: str
    cases: int
    passed: int
    failed: int
    pass_rate: float
    pass_rate_lower: float
    latency_p95_ms: float
    duration_s: float
    dataset_digest: str
    failures: tuple[FailedCase, ...] = ()


def check_suite(suite: Suite) -> Suite:
    """`suite`, if its words are in order; else `Invalid` `invalid_test_suite`."""
    problems: list[Violation] = []
    for field, value in (("suite.name", suite.name), ("suite.dataset", suite.dataset)):
        try:
            check_name(value, field)
        except Invalid as error:
            problems += error.violations
    if suite.tolerance < 0 or suite.tolerance != suite.tolerance or suite.tolerance == float("inf"):
        problems.append(Violation("suite.tolerance", f"is {suite.tolerance:g}; use a number of at least 0"))
    if suite.max_cases < 0:
        problems.append(Violation("suite.max_cases", f"is {suite.max_cases}; use 0 (all) or more"))
    for field in ("dataset_version", "expected_column", "id_column"):
        if len(getattr(suite, field)) > 200:
            problems.append(Violation(f"suite.{field}", "has more than 200 characters"))
    if len(suite.description) > 10_000:
        problems.append(Violation("suite.description", "has more than 10,000 characters"))
    if problems:
        raise Invalid(code="invalid_test_suite", violations=problems)
    return suite


def same_or_refused(known: Suite, given: Suite) -> Suite:
    """The suite that is there, if what is given says the same; else `AlreadyExists` `test_suite_exists`."""
    if replace(given, created_at=known.created_at, created_by=known.created_by) != known:
        raise AlreadyExists(
            f"test suite {known.name} exists with other content; give the new one another name",
            code="test_suite_exists",
            name=known.name,
        )
    return known


def names_meant(name: str) -> tuple[str, ...]:
    """What a suite's name may stand for, the best first: the ending `_tests` may be left out or added."""
    other = name.removesuffix(SUFFIX) if name.endswith(SUFFIX) else name + SUFFIX
    return (name, other) if other else (name,)


def meant(name: str, found: Iterable[Suite]) -> Suite | None:
    """The one of `found` that `name` stands for."""
    by_name = {each.name: each for each in found}
    return next((by_name[each] for each in names_meant(name) if each in by_name), None)
