"""Pipelines and suites as they are made, and suites run on what is deployed."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from phantom.pipelines.v1 import pipeline_pb2
from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines.tests.conftest import Running, made, refused, stage, struct
from phantom_pipelines.tests.test_configs import GUIDE
from phantom_platform.errors import Invalid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


async def add_suite(stub: PipelineServiceStub, name: str = "smoke_tests", **fields: Any) -> Any:
    suite = pipeline_pb2.TestSuite(name=name, **{"dataset": "cases", **fields})
    return (await stub.CreateTestSuite(pb.CreateTestSuiteRequest(suite=suite))).suite


def order(**fields: Any) -> pb.RunTestsRequest:
    return pb.RunTestsRequest(**{"suite": "smoke", "environment": "staging", **fields})


# -- pipelines ---------------------------------------------------------------------


async def test_the_guides_pipeline_is_made_as_it_stands(pipelines: Running, ada: PipelineServiceStub) -> None:
    stages = [
        pipeline_pb2.Stage(name=name, type=kind, config=struct(config))
        for name, (kind, config) in GUIDE.items()
    ]
    pipeline_id = await made(ada, *stages, name="fraud-detection-deployment")
    for name in (pipeline_id, "fraud-detection-deployment"):
        found = (await ada.GetPipeline(pb.GetPipelineRequest(pipeline_id=name))).pipeline
        assert [each.name for each in found.stages] == list(GUIDE)
        assert MessageToDict(found.stages[4].config) == GUIDE["deploy_production"][1]
        assert found.version == 6


async def test_a_pipelines_name_is_taken_once(pipelines: Running, ada: PipelineServiceStub) -> None:
    request = pb.CreatePipelineRequest(name="line", request_id="r")
    first = await ada.CreatePipeline(request)
    assert (await ada.CreatePipeline(request)).pipeline.pipeline_id == first.pipeline.pipeline_id
    await refused("pipeline_exists", ada.CreatePipeline(pb.CreatePipelineRequest(name="line")))


async def test_a_stage_that_is_wrong_is_refused_field_by_field(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    pipeline_id = await made(ada)
    wrong = stage("deploy", "deployment", enviroment="staging", strategy="canary", canary_percentage=-1)
    error = await refused(
        "invalid_stage", ada.AddStage(pb.AddStageRequest(pipeline_id=pipeline_id, stage=wrong))
    )
    assert isinstance(error, Invalid)
    assert {each.field for each in error.violations} == {
        "stage.config.environment",
        "stage.config.enviroment",
        "stage.config.canary_percentage",
    }
    found = await ada.GetPipeline(pb.GetPipelineRequest(pipeline_id=pipeline_id))
    assert len(found.pipeline.stages) == 0


async def test_a_stages_name_is_taken_once_and_its_pipeline_must_exist(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    pipeline_id = await made(ada, stage("first"))
    again = pb.AddStageRequest(pipeline_id=pipeline_id, stage=stage("first"))
    await refused("stage_exists", ada.AddStage(again))
    await refused("pipeline_not_found", ada.AddStage(pb.AddStageRequest(pipeline_id="no", stage=stage("a"))))


@pytest.mark.parametrize(
    "config", [{"approvers": ["a\0b"]}, {"a\0b": 1}, {"performance_checks": {"min_accuracy": float("nan")}}]
)
async def test_what_cannot_be_kept_is_refused(
    pipelines: Running, ada: PipelineServiceStub, config: dict[str, Any]
) -> None:
    wrong = pb.AddStageRequest(
        pipeline_id=await made(ada),
        stage=pipeline_pb2.Stage(name="a", type="validation", config=struct(config)),
    )
    await refused("invalid_stage", ada.AddStage(wrong))


# -- suites ------------------------------------------------------------------------


async def test_a_suite_is_made_once_and_listed(pipelines: Running, ada: PipelineServiceStub) -> None:
    first = await add_suite(ada, tolerance=0.1, id_column="id", max_cases=50)
    assert (first.created_by, first.tolerance, first.id_column, first.max_cases) == ("ada", 0.1, "id", 50)
    assert await add_suite(ada, tolerance=0.1, id_column="id", max_cases=50) == first
    await refused("test_suite_exists", add_suite(ada, tolerance=0.2))
    await refused("dataset_not_found", add_suite(ada, "other", dataset="none"))
    await refused("invalid_test_suite", add_suite(ada, "a b"))
    await add_suite(ada, "newer")
    listed = (await ada.ListTestSuites(pb.ListTestSuitesRequest())).suites
    assert [each.name for each in listed] == ["newer", "smoke_tests"]


async def test_a_suite_runs_on_every_endpoint_of_the_environment(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    await add_suite(ada)
    pipelines.deployments.add("fraud-staging")
    pipelines.deployments.add("churn-staging")
    pipelines.deployments.add("fraud-prod", "production")
    pipelines.cases.rates["churn-staging"] = 0.9
    answer = await ada.RunTests(order())
    assert [(each.endpoint, each.passed, each.cases) for each in answer.runs] == [
        ("fraud-staging", 10, 10),
        ("churn-staging", 9, 10),
    ]
    assert not answer.passed
    assert (await ada.RunTests(order(min_pass_rate=0.9))).passed
    assert (await ada.RunTests(order(endpoint="fraud-staging", suite="smoke_tests"))).passed


async def test_a_dataset_may_be_given_instead_of_the_suites(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    await add_suite(ada)
    pipelines.deployments.add("fraud-staging")
    await ada.RunTests(order(dataset="staging_test_data", timeout_s=9))
    (asked,) = pipelines.cases.orders
    assert (asked.dataset, asked.suite.name, asked.timeout_s) == ("staging_test_data", "smoke_tests", 9)
    await refused("dataset_not_found", ada.RunTests(order(dataset="none")))


async def test_what_there_is_nothing_to_run_on_is_refused(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    await refused("test_suite_not_found", ada.RunTests(order()))
    await add_suite(ada)
    await refused("no_endpoints", ada.RunTests(order()))
    await refused("environment_not_found", ada.RunTests(order(environment="moon")))
    await refused("deployment_not_found", ada.RunTests(order(endpoint="none")))
    pipelines.deployments.add("fraud-prod", "production")
    await refused("deployment_not_found", ada.RunTests(order(endpoint="fraud-prod")))


async def test_tests_that_take_too_long_are_ended(pipelines: Running, ada: PipelineServiceStub) -> None:
    await add_suite(ada)
    pipelines.deployments.add("fraud-staging")
    pipelines.cases.takes_s = 30
    error = await refused("tests_timed_out", ada.RunTests(order(timeout_s=0.05)))
    assert "0 of 1 endpoints" in error.message


async def test_the_same_request_id_tests_once(pipelines: Running, ada: PipelineServiceStub) -> None:
    await add_suite(ada)
    pipelines.deployments.add("fraud-staging")
    first = await ada.RunTests(order(request_id="r"))
    assert await ada.RunTests(order(request_id="r")) == first
    assert len(pipelines.cases.orders) == 1
