"""Stages of type `testing`: a suite against what was deployed, and whether it has become slower or less right.

The suite goes through a gateway, to the endpoint. The comparison runs the version and the one that the environment
served before on two model servers of their own, the suite's cases in turn: so live traffic, routes and rollouts play no
part, and the old version need not be warm any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from phantom_pipelines.domain.configs.testing import TestingConfig
from phantom_pipelines.domain.suites import Suite
from phantom_pipelines.domain.values import Endpoint, Json, ModelVersion
from phantom_pipelines.runners.checks import FAIL, NOT_ASSESSED, PASS, finite, tell
from phantom_pipelines.runners.runner import CaseRunner, StageContext, StageFacts, StageResult, SuiteOrder
from phantom_pipelines.runners.versions import Laboratory, Registry, schema_of
from phantom_platform.errors import DeadlineExceeded, NotFound, Refused
from phantom_probing.comparison import Comparison, compare

FindSuite = Callable[[str, str], Awaitable[Suite]]
"""(workspace, name) → the suite; `NotFound` `test_suite_not_found`."""


class Deployments(Protocol):
    """Where versions are served."""

    async def endpoints(self, workspace: str, environment: str) -> list[Endpoint]: ...
    async def endpoint(self, workspace: str, name: str) -> Endpoint: ...


@dataclass(frozen=True)
class _Before:
    """What a deployment stage of this execution says."""

    deployment_id: str
    environment: str
    served_before: str
    digest: str


class TestingRunner:
    """The suite, then the comparison."""

    __test__ = False  # for pytest

    def __init__(
        self,
        registry: Registry,
        deployments: Deployments,
        laboratory: Laboratory,
        cases: CaseRunner,
        suite: FindSuite,
    ) -> None:
        self._registry = registry
        self._deployments = deployments
        self._laboratory = laboratory
        self._cases = cases
        self._suite = suite

    async def run(self, stage: StageContext) -> StageResult:
        config, facts = _config(stage.facts), stage.facts
        suite = await self._suite(facts.workspace, config.test_suite)
        before = _deployed(facts, config)
        endpoint = await self._endpoint(facts, config, before)

        async def run_suite() -> Json:
            return await self._run_suite(facts, config, suite, endpoint)

        async def run_comparison() -> Json:
            return await self._compare(facts, config, suite, before)

        found = {"suite": await stage.check("suite", run_suite)}
        await tell(stage, "suite", found["suite"])
        await stage.progress(0.5 if config.performance_degradation is not None else 1.0)
        if config.performance_degradation is not None:
            found["performance"] = await stage.check("performance", run_comparison)
            await tell(stage, "performance", found["performance"])
        return _result(found, endpoint)

    async def undo(self, stage: StageContext) -> str:
        """What ran here has ended with its task."""
        return ""

    # -- where --------------------------------------------------------------------

    async def _endpoint(self, facts: StageFacts, config: TestingConfig, before: _Before | None) -> Endpoint:
        if config.endpoint:
            found = await self._deployments.endpoint(facts.workspace, config.endpoint)
            if config.environment and found.environment != config.environment:
                raise Refused(
                    f"{found.deployment_id} is in {found.environment}, not in {config.environment}",
                    code="endpoint_elsewhere",
                )
        elif before is not None:
            found = await self._deployments.endpoint(facts.workspace, before.deployment_id)
        elif config.environment:
            found = await self._only_one(facts, config.environment)
        else:
            raise Refused(
                "no deployment stage before this one says what to test; name an environment or an endpoint",
                code="no_deployment_before",
            )
        model = facts.model
        if found.model_id != model.model_id or (found.version, found.digest) != (model.version, model.digest):
            raise Refused(
                f"{found.deployment_id} serves {found.model_id} {found.version or 'nothing'}, not {model.model_id} "
                f"{model.version}, which this execution is about",
                code="serves_another_version",
            )
        return found

    async def _only_one(self, facts: StageFacts, environment: str) -> Endpoint:
        everything = await self._deployments.endpoints(facts.workspace, environment)
        found = [each for each in everything if each.model_id == facts.model.model_id]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(
                f"{facts.model.model_id} has no deployment in {environment}", code="deployment_not_found"
            )
        raise Refused(
            f"{facts.model.model_id} has {len(found)} deployments in {environment}: "
            f"{', '.join(each.deployment_id for each in found)}; name the one that is meant as `endpoint`",
            code="deployment_ambiguous",
        )

    # -- what is run --------------------------------------------------------------

    async def _run_suite(
        self, facts: StageFacts, config: TestingConfig, suite: Suite, endpoint: Endpoint
    ) -> Json:
        order = SuiteOrder(
            facts.workspace, suite, endpoint, config.test_data, config.test_data_version, config.timeout_s
        )
        run = await self._cases.run_suite(order)
        is_good = run.pass_rate >= config.test_pass_rate
        words = f"{run.passed:,} of {run.cases:,} cases of {suite.name} passed on {endpoint.deployment_id}"
        first = f"; the first that did not: {run.failures[0].case_id}" if run.failures else ""
        answer: Json = finite(asdict(run))
        return {
            **answer,
            "verdict": PASS if is_good else FAIL,
            "reason": f"{words} ({run.pass_rate:.2%}); the limit is {config.test_pass_rate:.2%}{first}",
        }

    async def _compare(
        self, facts: StageFacts, config: TestingConfig, suite: Suite, before: _Before | None
    ) -> Json:
        other = await self._served_before(facts, before)
        if isinstance(other, str):
            return {"verdict": NOT_ASSESSED, "reason": other}
        limit = config.performance_degradation or 0.0
        schema = schema_of(facts.model)
        rows = await self._laboratory.rows(
            facts.workspace,
            schema,
            config.test_data or suite.dataset,
            config.test_data_version if config.test_data else suite.dataset_version,
            expected_column=suite.expected_column,
        )
        try:
            async with (
                self._laboratory.timing,
                asyncio.timeout(config.timeout_s),
                self._laboratory.serving(facts.workspace, facts.model) as mine,
                self._laboratory.serving(facts.workspace, other) as theirs,
            ):
                found = await compare(mine, theirs, rows.spread(suite.max_cases), limit, suite.tolerance)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"comparing with {other.version} took longer than {config.timeout_s:g} s; give more time, or limit the "
                "suite's cases",
                code="tests_timed_out",
            ) from error
        return _compared(found, other)

    async def _served_before(self, facts: StageFacts, before: _Before | None) -> ModelVersion | str:
        """Or in words why there is nothing to compare with."""
        if before is None:
            return "no deployment stage before this one says what was served before"
        if not before.served_before:
            return f"{before.environment} served no version of {facts.model.model_id} before"
        if (before.served_before, before.digest) == (facts.model.version, facts.model.digest):
            return f"{before.environment} served {facts.model.version} already"
        return await self._registry.version(facts.workspace, facts.model.model_id, before.served_before)


def _deployed(facts: StageFacts, config: TestingConfig) -> _Before | None:
    """The last deployment stage before this one; of the environment, where one is named."""
    for each in reversed(facts.earlier):
        said = each.result
        if each.type != "deployment" or each.phase != "succeeded" or not said.get("deployment_id"):
            continue
        fits = not config.environment or said.get("environment") == config.environment
        if fits and (not config.endpoint or said["deployment_id"] == config.endpoint):
            return _Before(
                said["deployment_id"],
                str(said.get("environment", "")),
                str(said.get("served_before", "")),
                str(said.get("served_before_digest", "")),
            )
    return None


def _compared(found: Comparison, other: ModelVersion) -> Json:
    """Fails only where an interval lies wholly beyond the limit."""
    parts = {"latency_p95": found.latency_p95, "accuracy": found.accuracy}
    answer: Json = finite({name: asdict(each) for name, each in parts.items()})
    unsure = [name for name, each in parts.items() if each.verdict == "not_enough_data"]
    return {
        **answer,
        "calls": found.calls,
        "cases": found.cases,
        "compared_with": other.version,
        "verdict": FAIL if found.has_failed else PASS,
        "reason": "; ".join(each.reason for each in parts.values()),
        "warnings": [
            f"{name} is not shown to be within the limit: its interval reaches beyond; more cases would narrow it"
            for name in unsure
        ],
    }


def _result(found: dict[str, Json], endpoint: Endpoint) -> StageResult:
    codes = {"suite": "test_pass_rate", "performance": "performance_degradation"}
    failed = [name for name, each in found.items() if each["verdict"] == FAIL]
    result: Json = {"endpoint": endpoint.deployment_id, "version": endpoint.version}
    words = "; ".join(found[name]["reason"] for name in failed or found)
    return StageResult(not failed, codes[failed[0]] if failed else "", words, result)


def _config(facts: StageFacts) -> TestingConfig:
    assert isinstance(facts.config, TestingConfig)  # the type decides the runner
    return facts.config
