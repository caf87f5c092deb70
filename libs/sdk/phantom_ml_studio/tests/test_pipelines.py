"""Pipelines and test suites, as the SDK sends and reads them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from phantom.pipelines.v1 import pipeline_pb2 as messages
from phantom.pipelines.v1 import pipeline_service_pb2 as rpc
from phantom_ml_studio import Client, DeploymentPipeline, TestSuites, waiting
from phantom_ml_studio.errors import AlreadyExists, Invalid, Refused, TimedOut
from phantom_ml_studio.tests.fake_platform import FakePlatform, Refusal


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to wait for between two questions."""
    monkeypatch.setattr(waiting, "POLL_S", 0.01)


def execution(phase: str = "running", **more: Any) -> messages.Execution:
    return messages.Execution(execution_id="e-1", phase=phase, **more)


def test_a_stage_is_sent_as_it_was_written(platform: FakePlatform) -> None:
    asked: list[rpc.AddStageRequest] = []

    def add(body: bytes) -> rpc.AddStageResponse:
        asked.append(rpc.AddStageRequest.FromString(body))
        return rpc.AddStageResponse(
            pipeline=messages.Pipeline(pipeline_id="p-1", stages=[asked[-1].stage], version=2)
        )

    platform.methods["AddStage"] = add
    stage = {
        "name": "integration_tests",
        "type": "testing",
        "config": {"test_suite": "integration_tests", "success_criteria": {"test_pass_rate": 0.95}},
    }
    with Client(platform.address, "t") as client:
        made = DeploymentPipeline(client).add_stage("p-1", stage)
    assert asked[0].pipeline_id == "p-1"
    (found,) = made.stages
    assert {"name": found.name, "type": found.type, "config": found.config} == stage
    assert made.version == 2


@pytest.mark.parametrize(
    ("stage", "field", "why"),
    [
        ({"name": "x", "type": "test"}, "stage.type", "did you mean 'testing'"),
        ({"type": "testing"}, "stage.name", "is missing"),
        ({"name": "x", "type": "testing", "conf": {}}, "stage.conf", "did you mean 'config'"),
        ({"name": "x", "type": "testing", "config": []}, "stage.config", "a dictionary"),
        ({"name": "x", "type": "testing", "config": {"a": object()}}, "stage.config", "only texts"),
        ({"name": "x", "type": "testing", "config": {"a": float("nan")}}, "stage.config", "only texts"),
    ],
)
def test_a_wrong_stage_is_refused_before_it_is_sent(
    stage: dict[str, Any], field: str, why: str, platform: FakePlatform
) -> None:
    with Client(platform.address, "t") as client, pytest.raises(Invalid) as caught:
        DeploymentPipeline(client).add_stage("p-1", stage)
    assert caught.value.code == "invalid_stage"
    ((name, what),) = caught.value.violations
    assert name == field
    assert why in what
    assert platform.seen == []


def test_what_the_server_says_of_a_stage_keeps_its_fields(platform: FakePlatform) -> None:
    violations = {"config.min_accurcy": "there is no such key"}
    platform.answer(
        "AddStage", Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no", "invalid_stage", violations=violations)
    )
    platform.answer("CreatePipeline", Refusal(grpc.StatusCode.ALREADY_EXISTS, "p is", "pipeline_exists"))
    with Client(platform.address, "t") as client:
        pipeline = DeploymentPipeline(client)
        with pytest.raises(Invalid) as wrong:
            pipeline.add_stage("p-1", {"name": "x", "type": "validation", "config": {"min_accurcy": 1}})
        with pytest.raises(AlreadyExists):
            pipeline.create("p")
    assert dict(wrong.value.violations) == violations


def test_an_execution_carries_stages_with_logs_results_and_approvals(platform: FakePlatform) -> None:
    made = execution("waiting_for_approval", current_stage="deploy", progress=200 / 3)
    first = made.stages.add(name="check", type="validation", phase="succeeded", duration_s=2.5, attempts=1)
    first.logs.add(level="info", text="accuracy 0.91").at.FromSeconds(1_700_000_000)
    first.result.update({"accuracy": {"value": 0.91, "lower": 0.89}})
    second = made.stages.add(name="deploy", phase="waiting_for_approval")
    second.approval.approvers.append("grace")
    second.approval.state = "waiting"
    platform.answer("GetExecution", rpc.GetExecutionResponse(execution=made))
    with Client(platform.address, "t") as client:
        status = DeploymentPipeline(client).get_execution_status("e-1")
    assert (status.id, status.phase, status.current_stage) == ("e-1", "waiting_for_approval", "deploy")
    assert f"{status.progress}%" == "66.7%"
    check, deploy = status.stages
    assert (check.duration_s, check.logs[0].text, check.result["accuracy"]["lower"]) == (
        2.5,
        "accuracy 0.91",
        0.89,
    )
    assert (check.approval, check.ended_at) == (None, None)
    assert deploy.approval is not None
    assert (deploy.approval.approvers, deploy.approval.state) == (("grace",), "waiting")


def test_a_wait_tells_each_change_and_ends_or_times_out(platform: FakePlatform) -> None:
    phases = ["pending", "running", "running", "failed"]
    platform.answer("GetExecution", *(rpc.GetExecutionResponse(execution=execution(p)) for p in phases))
    told: list[str] = []
    with Client(platform.address, "t") as client:
        pipeline = DeploymentPipeline(client)
        assert pipeline.wait("e-1", 30, lambda e: told.append(e.phase)).phase == "failed"
        platform.answer("GetExecution", rpc.GetExecutionResponse(execution=execution()))
        with pytest.raises(TimedOut) as late:
            pipeline.wait("e-1", timeout_s=0)
    assert told == ["pending", "running", "failed"]
    assert late.value.code == "execution_not_ended"


def test_a_decision_names_the_stage_only_where_it_was_given(platform: FakePlatform) -> None:
    asked: list[rpc.DecideApprovalRequest] = []

    def decide(body: bytes) -> rpc.DecideApprovalResponse:
        asked.append(rpc.DecideApprovalRequest.FromString(body))
        return rpc.DecideApprovalResponse(execution=execution())

    platform.methods["DecideApproval"] = decide
    with Client(platform.address, "t") as client:
        DeploymentPipeline(client).approve("e-1", comment="go")
        DeploymentPipeline(client).reject("e-1", stage="deploy")
    assert [(r.approve, r.stage, r.comment) for r in asked] == [(True, "", "go"), (False, "deploy", "")]
    assert asked[0].request_id != asked[1].request_id


def test_what_a_stage_names_must_exist_before_anything_runs(platform: FakePlatform) -> None:
    refusal = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no suite", "test_suite_not_found")
    platform.answer("ExecutePipeline", refusal)
    with Client(platform.address, "t") as client, pytest.raises(Refused) as caught:
        DeploymentPipeline(client).execute(pipeline_id="p-1", model_id="m", version="1", trigger="automated")
    assert caught.value.code == "test_suite_not_found"


def test_a_run_of_tests_has_the_time_it_was_given_and_names_what_failed(platform: FakePlatform) -> None:
    asked: list[rpc.RunTestsRequest] = []

    def run(body: bytes) -> rpc.RunTestsResponse:
        asked.append(rpc.RunTestsRequest.FromString(body))
        made = rpc.RunTestsResponse(passed=False)
        one = made.runs.add(suite="s", endpoint="m-prod", cases=2, passed=1, failed=1, pass_rate=0.5)
        one.failures.add(case_id="7", expected="high", got="low")
        return made

    platform.methods["RunTests"] = run
    with Client(platform.address, "t") as client:
        result = TestSuites(client).run("s", "staging", endpoint="m-prod", dataset="d", timeout_s=20)
    assert (asked[0].timeout_s, asked[0].endpoint, asked[0].dataset) == (20, "m-prod", "d")
    assert not result.passed
    assert (result.runs[0].failures[0].case_id, result.runs[0].failures[0].got) == ("7", "low")


def test_a_suite_is_sent_whole(platform: FakePlatform) -> None:
    asked: list[messages.TestSuite] = []

    def create(body: bytes) -> rpc.CreateTestSuiteResponse:
        asked.append(rpc.CreateTestSuiteRequest.FromString(body).suite)
        return rpc.CreateTestSuiteResponse(suite=asked[-1])

    platform.methods["CreateTestSuite"] = create
    with Client(platform.address, "t") as client:
        made = TestSuites(client).create(
            "s", "d", dataset_version="2", expected_column="y", tolerance=0.1, id_column="id", max_cases=9
        )
    assert (made.name, made.dataset, made.dataset_version, made.expected_column) == ("s", "d", "2", "y")
    assert (made.tolerance, made.id_column, made.max_cases) == (0.1, "id", 9)
