"""Running a test suite now, outside a pipeline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from phantom_pipelines.domain.suites import Suite, SuiteRun
from phantom_pipelines.domain.values import Call, Endpoint
from phantom_pipelines.runners.runner import CaseRunner, SuiteOrder
from phantom_pipelines.service import find
from phantom_pipelines.service.ports import Deployments, Models, Store, Work
from phantom_platform import audit
from phantom_platform.errors import DeadlineExceeded, NotFound, Refused
from phantom_platform.idempotency import Once

DEFAULT_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class TestOrder:
    """Empty endpoint: every one of the environment. Empty dataset: the suite's. `min_pass_rate` 0: all must pass."""

    __test__ = False  # for pytest

    suite: str
    environment: str
    endpoint: str = ""
    dataset: str = ""
    min_pass_rate: float = 0.0
    timeout_s: float = 0.0


@dataclass(frozen=True)
class Tested:
    """What came of it."""

    passed: bool
    runs: tuple[SuiteRun, ...]


class Testing:
    """The use case behind `phantom-ml-studio test`."""

    def __init__(
        self, store: Store, models: Models, deployments: Deployments, cases: CaseRunner | None
    ) -> None:
        self._store = store
        self._models = models
        self._deployments = deployments
        self._cases = cases
        self._once = Once(store)

    async def run(self, call: Call, order: TestOrder) -> Tested:
        """Each endpoint after the other. `DeadlineExceeded` `tests_timed_out` when the time is over for all."""
        audit.resource(f"{call.workspace}/{order.environment}/{order.suite}")
        if (known := await self._once.recall(call, Tested)) is not None:
            return known
        suite = await find.suite(self._store.reads, call.workspace, order.suite)
        endpoints = await self._endpoints(call.workspace, order)
        if order.dataset:
            await self._models.dataset(call.workspace, order.dataset, "")
        runs = await self._run_all(call.workspace, order, suite, endpoints)
        wanted = order.min_pass_rate or 1.0
        tested = Tested(all(each.pass_rate >= wanted for each in runs), tuple(runs))

        async def work(tx: Work) -> Tested:
            return tested

        return await self._once.run(call, Tested, work)

    async def _run_all(
        self, workspace: str, order: TestOrder, suite: Suite, endpoints: list[Endpoint]
    ) -> list[SuiteRun]:
        if self._cases is None:
            raise Refused("this process runs no test cases", code="tests_not_available")
        limit_s = order.timeout_s or DEFAULT_TIMEOUT_S
        ask = SuiteOrder(workspace, suite, endpoints[0], order.dataset, "", limit_s)
        runs: list[SuiteRun] = []
        try:
            async with asyncio.timeout(limit_s):
                for endpoint in endpoints:
                    runs.append(await self._cases.run_suite(replace(ask, endpoint=endpoint)))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{len(runs)} of {len(endpoints)} endpoints were tested within {limit_s:g} s; give more time, or "
                "limit the suite's cases",
                code="tests_timed_out",
            ) from error
        return runs

    async def _endpoints(self, workspace: str, order: TestOrder) -> list[Endpoint]:
        find.among_environments(order.environment, await self._deployments.environments(workspace))
        if order.endpoint:
            found = await self._deployments.endpoint(workspace, order.endpoint)
            if found.environment != order.environment:
                raise NotFound(
                    f"{found.deployment_id} is in {found.environment}, not in {order.environment}",
                    code="deployment_not_found",
                    deployment_id=found.deployment_id,
                )
            return [found]
        endpoints = await self._deployments.endpoints(workspace, order.environment)
        if not endpoints:
            raise Refused(
                f"nothing is deployed in {order.environment}; deploy a model there first", code="no_endpoints"
            )
        return endpoints
