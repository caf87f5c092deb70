"""Testing stages: suites through the inference protocol, and the comparison with the version served before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phantom_pipelines.domain.suites import Suite
from phantom_pipelines.domain.values import Endpoint
from phantom_pipelines.runners.runner import Earlier, SuiteOrder
from phantom_pipelines.runners.suites import GatewayCases, local_gateway
from phantom_pipelines.runners.testing import TestingRunner
from phantom_pipelines.tests.fakes import Cases, Deployments
from phantom_pipelines.tests.laboratory import (
    MemoryStage,
    Versions,
    endpoint_of,
    make_laboratory,
    make_versions,
    stage_of,
)
from phantom_platform.errors import DeadlineExceeded, NotFound, PhantomError, Refused, Unavailable
from phantom_platform.testing.identity import FixedToken

pytestmark = pytest.mark.timeout(120)
SUITE = Suite("integration_tests", "held-out", datetime.now(UTC), "ada", id_column="case")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return make_versions(tmp_path_factory.mktemp("versions"))


@asynccontextmanager
async def door(versions: Versions, root: Path, version: str = "good") -> AsyncIterator[GatewayCases]:
    """Cases run against a real OIP server in a gateway's place: it answers for `fraud` and this version only."""
    laboratory = make_laboratory(versions, root)
    async with laboratory.serving("default", versions.versions[version]) as client:
        yield GatewayCases(versions, laboratory, lambda: client.target.address, FixedToken("token"))


def order(endpoint: Endpoint, suite: Suite = SUITE, **more: Any) -> SuiteOrder:
    return SuiteOrder("default", suite, endpoint, **more)


async def test_a_suite_is_run_against_the_version_that_is_served(versions: Versions, tmp_path: Path) -> None:
    endpoint = endpoint_of(versions.versions["good"])
    async with door(versions, tmp_path) as cases:
        run = await cases.run_suite(order(endpoint, replace(SUITE, max_cases=100)))
        whole = await cases.run_suite(order(endpoint))
    assert (run.suite, run.endpoint, run.model_version) == ("integration_tests", "fraud", "good")
    assert (run.cases, run.passed + run.failed) == (100, 100)
    assert run.pass_rate > 0.9
    assert run.pass_rate_lower < run.pass_rate
    assert run.latency_p95_ms > 0
    assert run.dataset_digest == versions.datasets["held-out"].digest
    assert whole.cases == 400
    assert whole.failures[0].case_id == "c0"  # whose label is wrong
    assert {whole.failures[0].expected, whole.failures[0].got} == {"legit", "fraud"}


async def test_what_cannot_be_tested_is_refused_by_name(versions: Versions, tmp_path: Path) -> None:
    endpoint = endpoint_of(versions.versions["good"])
    async with door(versions, tmp_path) as cases:

        async def code_of(wanted: SuiteOrder) -> str:
            with pytest.raises(PhantomError) as error:
                await cases.run_suite(wanted)
            return error.value.code

        assert await code_of(order(replace(endpoint, version=""))) == "nothing_served"
        assert await code_of(order(endpoint, dataset="no-such")) == "dataset_not_found"
        assert await code_of(order(endpoint, replace(SUITE, expected_column="x"))) == "dataset_column_missing"
        assert await code_of(order(replace(endpoint, deployment_id="another"))) == "model_not_found"
        assert await code_of(order(endpoint, timeout_s=0.001)) == "tests_timed_out"
        assert await code_of(order(endpoint_of(versions.versions["bad"]))) == "version_not_found"
    away = GatewayCases(versions, make_laboratory(versions, tmp_path), lambda: "127.0.0.1:1", FixedToken("t"))
    with pytest.raises(Unavailable):
        await away.run_suite(order(endpoint, replace(SUITE, max_cases=3)))


def test_the_local_stacks_gateway_is_found(tmp_path: Path) -> None:
    assert local_gateway(tmp_path) == "127.0.0.1:8001"
    (tmp_path / "run").mkdir()
    stack = tmp_path / "run" / "stack.json"
    stack.write_text(json.dumps({"gateways": [{"grpc": "127.0.0.1:4711"}]}))
    assert local_gateway(tmp_path) == "127.0.0.1:4711"
    stack.write_text(json.dumps({"gateways": []}))
    assert local_gateway(tmp_path) == "127.0.0.1:8001"


def deployed(versions: Versions, before: str = "", phase: str = "succeeded", **more: Any) -> Earlier:
    result = {
        "deployment_id": "fraud",
        "environment": "staging",
        "version": "same",
        "served_before": before,
        "served_before_digest": versions.versions[before].digest if before else "",
        **more,
    }
    return Earlier("deploy", "deployment", phase, result)


class Bench:
    """A runner whose suites pass as is said, over real versions."""

    def __init__(self, versions: Versions, root: Path, serves: str = "same") -> None:
        self.versions = versions
        self.cases = Cases()
        self.deployments = Deployments({"fraud": endpoint_of(versions.versions[serves])})
        self.runner = TestingRunner(
            versions, self.deployments, make_laboratory(versions, root), self.cases, self.suite
        )
        self.root = root

    async def suite(self, workspace: str, name: str) -> Suite:
        if name != "integration":
            raise NotFound(code="test_suite_not_found")
        return SUITE

    def stage(
        self, *earlier: Earlier, version: str = "same", criteria: dict[str, float] | None = None, **more: Any
    ) -> MemoryStage:
        config = {"test_suite": "integration", **more}
        if criteria:
            config["success_criteria"] = criteria
        return stage_of("testing", config, self.versions.versions[version], *earlier)


@pytest.fixture
def bench(versions: Versions, tmp_path: Path) -> Bench:
    return Bench(versions, tmp_path)


async def test_the_pass_rate_decides(bench: Bench) -> None:
    bench.cases.rates["fraud"] = 0.9
    stage = bench.stage(
        deployed(bench.versions), criteria={"test_pass_rate": 0.9}, test_data="staging_test_data", timeout=7
    )
    result = await bench.runner.run(stage)
    assert result.ok
    assert result.result == {"endpoint": "fraud", "version": "same"}
    assert stage.finished["suite"]["passed"] == 9
    asked = bench.cases.orders[0]
    assert (asked.dataset, asked.timeout_s, asked.endpoint.deployment_id) == ("staging_test_data", 7, "fraud")
    strict = await bench.runner.run(bench.stage(deployed(bench.versions)))
    assert (strict.ok, strict.reason_code) == (False, "test_pass_rate")
    assert "9 of 10 cases" in strict.reason
    again = stage.again()
    assert (await bench.runner.run(again)).ok
    assert len(bench.cases.orders) == 2
    assert await bench.runner.undo(again) == ""


async def test_an_equal_version_has_not_become_worse(bench: Bench) -> None:
    stage = bench.stage(deployed(bench.versions, "good"), criteria={"performance_degradation": 1.0})
    result = await bench.runner.run(stage)
    found = stage.finished["performance"]
    assert result.ok, result.reason
    assert found["compared_with"] == "good"
    assert found["calls"] == 600
    assert found["cases"] == 400
    assert found["accuracy"]["verdict"] == "pass"
    assert not list((bench.root / "scratch").glob("*"))
    json.dumps(stage.finished, allow_nan=False)


async def test_a_less_accurate_version_fails_on_the_interval(versions: Versions, tmp_path: Path) -> None:
    bench = Bench(versions, tmp_path, "bad")
    stage = bench.stage(
        deployed(versions, "good", version="bad"), version="bad", criteria={"performance_degradation": 0.05}
    )
    result = await bench.runner.run(stage)
    assert (result.ok, result.reason_code) == (False, "performance_degradation")
    assert stage.finished["performance"]["accuracy"]["lower"] > 0.05
    assert "accuracy" in result.reason
    assert ("error", f"performance: fail: {stage.finished['performance']['reason']}") in stage.lines


async def test_a_comparison_is_bounded_in_time(bench: Bench) -> None:
    stage = bench.stage(
        deployed(bench.versions, "good"), criteria={"performance_degradation": 0.05}, timeout=0.1
    )
    with pytest.raises(DeadlineExceeded) as error:
        await bench.runner.run(stage)
    assert error.value.code == "tests_timed_out"
    assert list(stage.finished) == ["suite"]
    assert not list((bench.root / "scratch").glob("*"))


@pytest.mark.parametrize(("before", "words"), [("", "served no version"), ("same", "served same already")])
async def test_with_nothing_to_compare_it_says_so(bench: Bench, before: str, words: str) -> None:
    stage = bench.stage(deployed(bench.versions, before), criteria={"performance_degradation": 0.05})
    result = await bench.runner.run(stage)
    assert result.ok
    assert stage.finished["performance"]["verdict"] == "not_assessed"
    assert words in stage.finished["performance"]["reason"]
    assert stage.lines[-1][0] == "warning"


async def test_what_is_tested_is_what_this_execution_deployed(versions: Versions, tmp_path: Path) -> None:
    bench = Bench(versions, tmp_path)
    failed = deployed(versions, phase="failed")

    async def code_of(stage: MemoryStage) -> str:
        with pytest.raises(PhantomError) as error:
            await bench.runner.run(stage)
        return error.value.code

    assert await code_of(bench.stage(failed)) == "no_deployment_before"
    assert await code_of(bench.stage(failed, environment="production")) == "deployment_not_found"
    assert await code_of(bench.stage(deployed(versions), version="good")) == "serves_another_version"
    assert await code_of(bench.stage(endpoint="fraud", environment="production")) == "endpoint_elsewhere"
    with pytest.raises(NotFound):
        await bench.runner.run(
            stage_of("testing", {"test_suite": "another"}, versions.versions["same"], deployed(versions))
        )
    assert (await bench.runner.run(bench.stage(environment="staging"))).ok
    assert (await bench.runner.run(bench.stage(endpoint="fraud"))).ok
    bench.deployments.found["second"] = endpoint_of(versions.versions["same"], "second")
    with pytest.raises(Refused, match="second") as error:
        await bench.runner.run(bench.stage(environment="staging"))
    assert error.value.code == "deployment_ambiguous"
