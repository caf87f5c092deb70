"""The reconciler's own life, with everything around it in memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest_asyncio
from prometheus_client import CollectorRegistry

from phantom_deployer.bell import Bell
from phantom_deployer.metrics import Metrics
from phantom_deployer.reconciler import Reconciler
from phantom_deployer.tests.harness import Machine, MemoryBackend, Saboteur
from phantom_platform.clock import SystemClock
from phantom_platform.errors import Unavailable
from phantom_platform.testing.waiting import until


class Flaky:
    """Use cases that fail as often as they are told to, and remember the passes they saw."""

    def __init__(self) -> None:
        self.known: list[tuple[str, str]] = []
        self.passes: list[tuple[str, float]] = []
        self.failures: list[Exception] = []
        self.concurrent = 0
        self.most = 0

    async def keys(self) -> list[tuple[str, str]]:
        if self.failures:
            raise self.failures.pop()
        return self.known

    async def replica_ids(self) -> frozenset[str]:
        raise ValueError("the sweep fails")

    async def look_up(self, workspace: str, deployment_id: str) -> None:
        return None

    async def advance(self, workspace: str, deployment_id: str, observations: Any) -> None:
        self.concurrent += 1
        self.most = max(self.most, self.concurrent)
        await asyncio.sleep(0.01)
        self.concurrent -= 1
        self.passes.append((deployment_id, time.monotonic()))
        if deployment_id == "broken":
            raise ValueError("this one always fails")

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[bool]:
        yield True


@pytest_asyncio.fixture(loop_scope="session")
async def flaky() -> AsyncIterator[tuple[Flaky, Reconciler]]:
    made = Flaky()
    made.failures = [Unavailable("Postgres is away", retry_after_s=0.05)] * 3
    backend = MemoryBackend(Machine(), Saboteur())
    convergence: Any = made
    reconciler = Reconciler(convergence, backend, made, SystemClock(), Metrics(CollectorRegistry()), Bell())
    running = asyncio.create_task(reconciler.run())
    yield made, reconciler
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_it_outlives_failures_and_comes_back_every_second(
    flaky: tuple[Flaky, Reconciler],
) -> None:
    made, _ = flaky
    made.known = [("default", "broken"), ("default", "fine")]
    await until(lambda: [name for name, _ in made.passes].count("fine") >= 2)
    assert [name for name, _ in made.passes].count("broken") >= 1


async def test_a_woken_deployment_is_worked_on_at_once(flaky: tuple[Flaky, Reconciler]) -> None:
    made, reconciler = flaky
    await until(lambda: not made.failures)
    woken = time.monotonic()
    reconciler.wake_key("default/urgent")
    await until(lambda: [at for name, at in made.passes if name == "urgent"])
    assert made.passes[-1][1] - woken < 0.5


async def test_a_deployment_that_is_gone_leaves_nothing_in_memory_or_metrics(
    flaky: tuple[Flaky, Reconciler],
) -> None:
    made, reconciler = flaky
    reconciler._show(("default", "gone"), {"ready": 2})
    reconciler.wake("default", "gone")
    await until(lambda: "gone" in [name for name, _ in made.passes])
    await until(lambda: not reconciler._running)
    assert reconciler._shown == {}


async def test_few_deployments_are_worked_on_at_once_and_each_by_one_pass(
    flaky: tuple[Flaky, Reconciler],
) -> None:
    made, reconciler = flaky
    for _ in range(3):
        for number in range(12):
            reconciler.wake("default", f"d{number}")
    await until(lambda: len({name for name, _ in made.passes}) == 12)
    assert made.most <= 3
