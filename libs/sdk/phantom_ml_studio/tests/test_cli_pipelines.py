"""`pipelines`, `test-suites` and `test`: what is said, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from typer.testing import CliRunner

from phantom.pipelines.v1 import pipeline_pb2 as messages
from phantom.pipelines.v1 import pipeline_service_pb2 as rpc
from phantom_ml_studio import waiting
from phantom_ml_studio.cli.main import app
from phantom_ml_studio.tests.fake_platform import FakePlatform, Refusal

Status = grpc.StatusCode
FILE = """
name: release
description: staging, then production
stages:
  - {name: check, type: validation, config: {security_scan: true}}
  - {name: gate, type: approval}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to wait for between two questions."""
    monkeypatch.setattr(waiting, "POLL_S", 0.01)


def run(*arguments: str, stdin: str | None = None) -> click.testing.Result:
    return CliRunner().invoke(app, arguments, input=stdin, env={"COLUMNS": "200"})


class Server:
    """One pipeline, kept as the real server keeps it."""

    def __init__(self, platform: FakePlatform, *stages: messages.Stage, exists: bool = False) -> None:
        self.pipeline = messages.Pipeline(pipeline_id="p-1", name="release", stages=stages)
        self.exists = exists
        self.added: list[str] = []
        platform.methods["GetPipeline"] = self._get
        platform.methods["CreatePipeline"] = self._create
        platform.methods["AddStage"] = self._add

    def _get(self, body: bytes) -> rpc.GetPipelineResponse:
        if not self.exists:
            raise Refusal(Status.NOT_FOUND, "none", "pipeline_not_found")
        return rpc.GetPipelineResponse(pipeline=self.pipeline)

    def _create(self, body: bytes) -> rpc.CreatePipelineResponse:
        self.exists = True
        self.pipeline.description = rpc.CreatePipelineRequest.FromString(body).description
        return rpc.CreatePipelineResponse(pipeline=self.pipeline)

    def _add(self, body: bytes) -> rpc.AddStageResponse:
        stage = rpc.AddStageRequest.FromString(body).stage
        self.added.append(stage.name)
        self.pipeline.stages.append(stage)
        return rpc.AddStageResponse(pipeline=self.pipeline)


def stage(name: str, kind: str, **config: Any) -> messages.Stage:
    made = messages.Stage(name=name, type=kind)
    made.config.update(config)
    return made


def test_a_pipeline_of_a_file_is_made_and_again_is_the_same(logged_in: FakePlatform) -> None:
    server = Server(logged_in)
    done = run("pipelines", "apply", "-f", "-", "-o", "json", stdin=FILE)
    assert done.exit_code == 0, done.stderr
    assert [s["name"] for s in json.loads(done.stdout)["stages"]] == ["check", "gate"]
    assert server.pipeline.description == "staging, then production"
    assert "release is created" in done.stderr
    again = run("pipelines", "apply", "-f", "-", stdin=FILE)
    assert again.exit_code == 0, again.stderr
    assert (server.added, again.stderr) == (["check", "gate"], "")


def test_only_the_stages_that_are_missing_are_added(logged_in: FakePlatform) -> None:
    server = Server(logged_in, stage("check", "validation", security_scan=True), exists=True)
    assert run("pipelines", "apply", "-f", "-", stdin=FILE).exit_code == 0
    assert server.added == ["gate"]


@pytest.mark.parametrize(
    "there",
    [
        [stage("check", "validation", security_scan=False)],
        [stage("gate", "approval")],
        [stage("check", "validation", security_scan=True), stage("gate", "approval"), stage("x", "approval")],
    ],
)
def test_a_file_that_says_otherwise_changes_nothing(
    there: list[messages.Stage], logged_in: FakePlatform
) -> None:
    server = Server(logged_in, *there, exists=True)
    done = run("pipelines", "apply", "-f", "-", stdin=FILE)
    assert (done.exit_code, done.stdout, server.added) == (5, "", [])
    assert "[stage_differs]" in done.stderr


@pytest.mark.parametrize(
    "content", ["name: x", "stages: []", "name: x\nstages: [1]", "name: x\nstages: [{}]\nsteps: 1", "[1]"]
)
def test_a_file_that_is_no_pipeline_is_wrong_usage(content: str, logged_in: FakePlatform) -> None:
    assert run("pipelines", "apply", "-f", "-", stdin=content).exit_code == 2
    assert logged_in.seen == []


def test_a_stage_is_added_from_a_file(logged_in: FakePlatform, tmp_path: Path) -> None:
    server = Server(logged_in, exists=True)
    path = tmp_path / "stage.json"
    path.write_text(json.dumps({"name": "gate", "type": "approval", "config": {"approvers": ["grace"]}}))
    assert run("pipelines", "add-stage", "release", "-f", str(path)).exit_code == 0
    assert server.pipeline.stages[0].config["approvers"][0] == "grace"
    path.write_text(json.dumps({"name": "gate", "type": "aproval"}))
    wrong = run("pipelines", "add-stage", "release", "-f", str(path))
    assert wrong.exit_code == 1
    assert "did you mean 'approval'" in wrong.stderr


def execution(phase: str, *stages: str, logs: int = 0) -> messages.Execution:
    made = messages.Execution(execution_id="e-1", pipeline_name="release", phase=phase, progress=50)
    for name, state in zip(("check", "gate"), stages, strict=False):
        made.stages.add(name=name, type="validation", phase=state, reason="so" if state == "failed" else "")
    for number in range(logs):
        made.stages[0].logs.add(level="info", text=f"line {number}").at.FromSeconds(1_700_000_000)
    return made


def got(*made: messages.Execution) -> list[rpc.GetExecutionResponse]:
    return [rpc.GetExecutionResponse(execution=each) for each in made]


@pytest.mark.parametrize(("end", "code"), [("succeeded", 0), ("failed", 5), ("cancelled", 5)])
def test_a_watched_execution_tells_each_line_once_and_how_it_ended(
    end: str, code: int, logged_in: FakePlatform
) -> None:
    steps = got(
        execution("running", "running", "pending", logs=1),
        execution("running", "succeeded", "running", logs=2),
        execution(end, "succeeded", end, logs=2),
    )
    logged_in.answer("GetExecution", *steps)
    done = run("pipelines", "watch", "e-1")
    assert done.exit_code == code, done.stderr
    assert done.stdout.count("line 0") == done.stdout.count("line 1") == 1
    lines = done.stdout.splitlines()
    assert "check: running" in lines
    assert any(line.startswith(f"gate: {end}") for line in lines)
    assert lines[-1].startswith(f"e-1: {end}, 50 %")
    logged_in.answer("GetExecution", *steps)
    as_json = run("pipelines", "watch", "e-1", "-o", "json")
    assert [json.loads(line)["phase"] for line in as_json.stdout.splitlines()] == ["running", "running", end]


@pytest.mark.parametrize(
    ("phase", "code"), [("succeeded", 0), ("waiting_for_approval", 3), ("failed", 5), ("cancelled", 5)]
)
def test_an_execution_that_is_waited_for_ends_with_its_code(
    phase: str, code: int, logged_in: FakePlatform
) -> None:
    logged_in.answer("ExecutePipeline", rpc.ExecutePipelineResponse(execution=execution("pending")))
    logged_in.answer("GetExecution", *got(execution("running", "running"), execution(phase, phase)))
    started = run("pipelines", "execute", "release", "--model-id", "m")
    assert (started.exit_code, "pending" in started.stdout) == (0, True)
    done = run("pipelines", "execute", "release", "--model-id", "m", "--wait", "-o", "json")
    assert done.exit_code == code, done.stderr
    assert json.loads(done.stdout)["phase"] == phase
    assert "check: running" in done.stderr


def test_an_execution_that_takes_too_long_exits_with_6(logged_in: FakePlatform) -> None:
    logged_in.answer("ExecutePipeline", rpc.ExecutePipelineResponse(execution=execution("pending")))
    logged_in.answer("GetExecution", *got(execution("running")))
    done = run("pipelines", "execute", "release", "--model-id", "m", "--wait", "--timeout", "0")
    assert done.exit_code == 6
    assert run("pipelines", "execute", "release", "--model-id", "m", "--timeout", "5").exit_code == 2


def test_a_status_shows_stages_their_approval_and_with_logs_what_they_said(logged_in: FakePlatform) -> None:
    made = execution("waiting_for_approval", "succeeded", "waiting_for_approval", logs=2)
    made.stages[1].approval.state = "waiting"
    made.stages[1].approval.approvers.append("grace")
    logged_in.answer("GetExecution", *got(made))
    shown = run("pipelines", "status", "e-1")
    assert "waiting: grace" in shown.stdout
    assert "line 1" not in shown.stdout
    assert "line 1" in run("pipelines", "status", "e-1", "--logs").stdout
    assert (
        json.loads(run("pipelines", "status", "e-1", "-o", "json").stdout)["stages"][0]["logs"][1]["text"]
        == "line 1"
    )


@pytest.mark.parametrize(
    ("arguments", "approve", "named"),
    [
        (["approve", "e-1", "--comment", "go"], True, ""),
        (["reject", "e-1", "--stage", "gate"], False, "gate"),
    ],
)
def test_a_decision_is_sent(arguments: list[str], approve: bool, named: str, logged_in: FakePlatform) -> None:
    asked: list[rpc.DecideApprovalRequest] = []

    def decide(body: bytes) -> rpc.DecideApprovalResponse:
        asked.append(rpc.DecideApprovalRequest.FromString(body))
        return rpc.DecideApprovalResponse(execution=execution("running"))

    logged_in.methods["DecideApproval"] = decide
    assert run("pipelines", *arguments).exit_code == 0
    assert (asked[0].approve, asked[0].stage) == (approve, named)


def test_cancelling_what_has_ended_exits_with_5(logged_in: FakePlatform) -> None:
    logged_in.answer("CancelExecution", Refusal(Status.FAILED_PRECONDITION, "it is over", "execution_ended"))
    done = run("pipelines", "cancel", "e-1")
    assert done.exit_code == 5
    assert "[execution_ended]" in done.stderr


EMPTY: dict[str, tuple[str, Any]] = {
    "pipelines list": ("ListPipelines", rpc.ListPipelinesResponse()),
    "pipelines executions": ("ListExecutions", rpc.ListExecutionsResponse()),
    "test-suites list": ("ListTestSuites", rpc.ListTestSuitesResponse()),
}


@pytest.mark.parametrize("command", EMPTY)
def test_an_empty_list_is_an_empty_json_list(command: str, logged_in: FakePlatform) -> None:
    logged_in.answer(*EMPTY[command])
    done = run(*command.split(), "-o", "json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "[]\n", "")


def suite_ran(passed: bool) -> rpc.RunTestsResponse:
    made = rpc.RunTestsResponse(passed=passed)
    one = made.runs.add(suite="integration_tests", endpoint="m-staging", cases=20, passed=20 if passed else 8)
    for number in range(0 if passed else 12):
        one.failures.add(case_id=str(number), expected="high", got="low", error="" if number else "no answer")
    one.failed = len(one.failures)
    return made


TEST = ["test", "--environment", "staging", "--test-suite", "integration", "--timeout", "300"]


def test_tests_that_pass_exit_with_0_and_show_each_endpoint(logged_in: FakePlatform) -> None:
    logged_in.answer("RunTests", suite_ran(True))
    done = run(*TEST)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "m-staging" in done.stdout


def test_tests_that_fail_exit_with_5_naming_some_cases(logged_in: FakePlatform) -> None:
    logged_in.answer("RunTests", suite_ran(False))
    done = run(*TEST, "-o", "json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["passed"] is False
    assert "m-staging: case 0: no answer" in done.stderr
    assert "m-staging: case 1: expected high, got low" in done.stderr
    assert "case 10" not in done.stderr
    assert "[tests_failed]" in done.stderr


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal(Status.DEADLINE_EXCEEDED, "too slow", "tests_timed_out"), 6),
        (Refusal(Status.FAILED_PRECONDITION, "none", "no_endpoints"), 5),
        (Refusal(Status.NOT_FOUND, "none", "test_suite_not_found"), 1),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_tests_that_cannot_run_have_their_codes(refusal: Refusal, code: int, logged_in: FakePlatform) -> None:
    logged_in.answer("RunTests", refusal)
    done = run(*TEST)
    assert (done.exit_code, done.stdout) == (code, "")
    assert f"[{refusal.code}]" in done.stderr
