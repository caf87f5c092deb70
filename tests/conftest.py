"""One real stack for everything below `tests/`: started by the first test that asks, stopped at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.collector import Collector, running_collector
from harness.people import People, make_people
from harness.stack import Stack, running_stack


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Gets the stack's traces."""
    with running_collector() as running:
        yield running


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, collector: Collector) -> Iterator[Stack]:
    """Where everything is."""
    with running_stack(collector.address, lambda: request.session.testsfailed > 0) as running:
        yield running


@pytest.fixture(scope="session")
def people(stack: Stack) -> Iterator[People]:
    """The administrator, an engineer and a reviewer, logged in."""
    made = make_people(stack)
    yield made
    made.close()
