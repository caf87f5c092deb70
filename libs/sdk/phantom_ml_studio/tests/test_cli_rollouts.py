"""`deploy --strategy` and `rollouts`: what is asked for, what is said, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner

from phantom.deployer.v1 import deployer_service_pb2 as deployer
from phantom.deployer.v1 import deployment_pb2
from phantom.deployer.v1 import rollout_pb2 as messages
from phantom.deployer.v1 import rollout_service_pb2 as rpc
from phantom.pipelines.v1 import pipeline_service_pb2 as pipelines
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom_ml_studio import waiting
from phantom_ml_studio.cli.main import app
from phantom_ml_studio.cli.rollout_lines import changes_of
from phantom_ml_studio.cli.rollout_view import tree
from phantom_ml_studio.rollout_values import Rollout
from phantom_ml_studio.tests.fake_platform import FakePlatform, Refusal
from phantom_ml_studio.values import Deployment

Status = grpc.StatusCode
FURTHER = ["deploy", "--model-id", "m", "--environment", "staging", "--version", "2"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to wait for between two questions."""
    monkeypatch.setattr(waiting, "POLL_S", 0.01)


def run(*arguments: str, stdin: str | None = None) -> click.testing.Result:
    return CliRunner().invoke(app, arguments, input=stdin, env={"COLUMNS": "200"})


def rollout(state: str = "progressing", **more: Any) -> messages.Rollout:
    made = messages.Rollout(
        rollout_id="r-1",
        deployment_id="m-staging",
        state=state,
        stable_version="1",
        model_version="2",
        candidate="m-staging.2",
        stable="m-staging.1",
        steps=2,
        **more,
    )
    made.spec.strategy = "canary"
    return made


def deployment(**more: Any) -> deployment_pb2.Deployment:
    return deployment_pb2.Deployment(
        deployment_id="m-staging", environment="staging", model_id="m", phase="ready", replicas=2, **more
    )


class Asked:
    """What the fake deployer was asked to begin."""

    def __init__(self, platform: FakePlatform, *states: str, is_served: bool = True) -> None:
        self.rollouts: list[rpc.CreateRolloutRequest] = []
        self.deployments: list[deployer.DeployRequest] = []
        self._first = states[0] if states else "pending"
        platform.methods["CreateRollout"] = self._create
        platform.methods["Deploy"] = self._deploy
        platform.answer(
            "GetRollout", *(rpc.GetRolloutResponse(rollout=rollout(s)) for s in states or ["pending"])
        )
        there = deployer.GetDeploymentResponse(deployment=deployment(hash_field="user_id"))
        missing = Refusal(Status.NOT_FOUND, "none", "deployment_not_found")
        platform.answer("GetDeployment", there if is_served else missing)

    def _create(self, body: bytes) -> rpc.CreateRolloutResponse:
        self.rollouts.append(rpc.CreateRolloutRequest.FromString(body))
        return rpc.CreateRolloutResponse(rollout=rollout(self._first, warnings=["few requests"]))

    def _deploy(self, body: bytes) -> deployer.DeployResponse:
        self.deployments.append(deployer.DeployRequest.FromString(body))
        return deployer.DeployResponse(deployment=deployment())


# -- deploy --------------------------------------------------------------------------


def test_a_canary_is_one_step_at_its_share_and_then_all_traffic(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in)
    done = run(
        *FURTHER, "--strategy", "canary", "--canary-percentage", "5", "--canary-duration", "90", "-o", "json"
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rollout_id"] == "r-1"
    assert "warning: few requests" in done.stderr
    (request,) = asked.rollouts
    plan = request.spec.canary
    assert (plan.initial_percentage, plan.increment_percentage, plan.interval_s) == (5, 95, 90)
    assert (request.model_id, request.version, request.environment) == ("m", "2", "staging")
    assert asked.deployments == []


def test_a_canary_without_figures_is_a_pipelines(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in)
    assert run(*FURTHER, "--strategy", "canary").exit_code == 0
    assert (asked.rollouts[0].spec.canary.initial_percentage, asked.rollouts[0].spec.canary.interval_s) == (
        5,
        3600,
    )


@pytest.mark.parametrize(
    ("strategy", "content", "field"),
    [
        ("blue-green", "pause_before_switch: true", "blue_green"),
        ("rolling", '{"max_surge": 2}', "rolling"),
        ("shadow", "percentage: 10\nduration_minutes: 1", "shadow"),
        (
            "canary",
            "{initial_percentage: 1, increment_percentage: 9, increment_interval_minutes: 0.5}",
            "canary",
        ),
    ],
)
def test_a_file_says_how_a_strategy_goes(
    strategy: str, content: str, field: str, logged_in: FakePlatform, tmp_path: Path
) -> None:
    asked = Asked(logged_in)
    path = tmp_path / "strategy.yaml"
    path.write_text(content)
    done = run(*FURTHER, "--strategy", strategy, "-f", str(path))
    assert done.exit_code == 0, done.stderr
    assert asked.rollouts[0].spec.HasField(field)
    assert run(*FURTHER, "--strategy", strategy, "-f", "-", stdin=content).exit_code == 0


def test_a_pending_approval_exits_with_3_and_names_the_command(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in)
    done = run(*FURTHER, "--strategy", "canary", "--approval-required", "--approver", "grace")
    assert done.exit_code == 3
    assert "waits for grace: phantom-ml-studio rollouts approve r-1" in done.stderr
    assert "r-1" in done.stdout
    spec = asked.rollouts[0].spec
    assert (spec.approval_required, list(spec.approvers)) == (True, ["grace"])


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (("pending", "waiting_for_approval", "progressing"), 0),
        (("pending", "failed"), 1),
        (("pending", "rolling_back"), 0),
        (("pending", "rolled_back"), 5),
        (("pending", "superseded"), 5),
    ],
)
def test_a_wait_goes_on_until_the_candidate_has_traffic_or_never_will(
    states: tuple[str, ...], code: int, logged_in: FakePlatform
) -> None:
    Asked(logged_in, *states)
    done = run(*FURTHER, "--strategy", "canary", "--approval-required", "--wait-for-ready", "-o", "json")
    assert done.exit_code == code, done.stderr
    assert json.loads(done.stdout)["state"] == states[-1]


@pytest.mark.parametrize("strategy", ["rolling", "blue-green"])
def test_a_version_that_is_to_have_all_traffic_is_waited_for_until_it_has(
    strategy: str, logged_in: FakePlatform
) -> None:
    Asked(logged_in, "pending", "progressing", "paused", "analysing", "promoting")
    done = run(*FURTHER, "--strategy", strategy, "--wait-for-ready", "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "promoting"
    Asked(logged_in, "pending", "progressing", "paused")
    paused = run(*FURTHER, "--strategy", strategy, "--wait-for-ready", "--timeout", "0")
    assert paused.exit_code == 6


def test_a_wait_for_an_approval_that_takes_too_long_exits_with_6(logged_in: FakePlatform) -> None:
    Asked(logged_in, "waiting_for_approval")
    done = run(*FURTHER, "--strategy", "canary", "--approval-required", "--wait-for-ready", "--timeout", "0")
    assert done.exit_code == 6
    assert "waits for an approval after 0 s and goes on" in done.stderr


def test_a_first_version_is_deployed_plainly_and_that_is_said(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in, is_served=False)
    done = run(*FURTHER, "--strategy", "canary", "--canary-percentage", "5", "--replicas", "2")
    assert done.exit_code == 0, done.stderr
    assert "the first takes all traffic" in done.stderr
    assert asked.rollouts == []
    assert (asked.deployments[0].canary_percent, asked.deployments[0].replicas) == (0, 2)


def test_an_approval_that_nobody_would_be_asked_for_is_refused(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in, is_served=False)
    done = run(*FURTHER, "--strategy", "canary", "--approval-required")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "[approval_needs_rollout]" in done.stderr
    assert (asked.rollouts, asked.deployments) == ([], [])


def test_without_a_strategy_a_candidate_is_moved_by_hand_as_ever(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in)
    assert run(*FURTHER, "--canary-percentage", "5").exit_code == 0
    assert asked.rollouts == []
    assert asked.deployments[0].canary_percent == 5


def test_what_is_for_a_new_deployment_is_refused_for_another(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in)
    done = run(*FURTHER, "--strategy", "rolling", "--replicas", "3")
    assert done.exit_code == 5
    assert "--replicas is for a new deployment: m-staging has 2" in done.stderr
    assert run(*FURTHER, "--strategy", "rolling", "--replicas", "2").exit_code == 0
    assert len(asked.rollouts) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--approval-required"], "add --strategy"),
        (["--canary-duration", "5"], "add --strategy"),
        (["--strategy", "canary", "--approver", "grace"], "goes with --approval-required"),
        (["--strategy", "rolling", "--canary-percentage", "5"], "it is for canary"),
        (["--strategy", "shadow"], "needs --strategy-file"),
        (["--strategy", "canary", "-f", "nothing.yaml"], "nothing.yaml"),
        (["--strategy", "red-green"], "red-green"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    options: list[str], why: str, logged_in: FakePlatform
) -> None:
    done = run(*FURTHER, *options)
    assert done.exit_code == 2
    assert why in done.stderr
    assert logged_in.seen == []


@pytest.mark.parametrize("content", ["- 1", "a: [", "text"])
def test_a_strategy_file_without_a_dictionary_is_wrong_usage(
    content: str, logged_in: FakePlatform, tmp_path: Path
) -> None:
    path = tmp_path / "strategy.yaml"
    path.write_text(content)
    done = run(*FURTHER, "--strategy", "rolling", "-f", str(path))
    assert done.exit_code == 2
    assert str(path) in done.stderr


def test_a_wrong_key_in_the_file_is_named_before_anything_begins(
    logged_in: FakePlatform, tmp_path: Path
) -> None:
    for is_served in (True, False):
        asked = Asked(logged_in, is_served=is_served)
        path = tmp_path / "strategy.yaml"
        path.write_text("success_criteria: {minimum_request: 5}")
        done = run(*FURTHER, "--strategy", "rolling", "-f", str(path))
        assert done.exit_code == 1
        assert "success_criteria.minimum_request: there is no 'minimum_request'" in done.stderr
        assert "did you mean 'minimum_requests'" in done.stderr
        assert (asked.rollouts, asked.deployments) == ([], [])


# -- images --------------------------------------------------------------------------


def versions(*images: str | None) -> registry.ListVersionsResponse:
    found = registry.ListVersionsResponse()
    for number, image in enumerate(images, 1):
        version = found.versions.add(model_id="m", version=f"{number}.0.0")
        if image:
            version.metadata.update({"image": image})
    return found


def executions(*results: dict[str, Any]) -> pipelines.ListExecutionsResponse:
    found = pipelines.ListExecutionsResponse()
    for number, result in enumerate(results, 1):
        execution = found.executions.add(
            execution_id=f"e-{number}", model_id="m", model_version=f"{number}.0.0"
        )
        execution.stages.add(name="build", type="containerization", phase="succeeded").result.update(result)
    return found


def test_an_image_is_the_version_that_was_registered_with_it(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in, is_served=False)
    logged_in.answer("ListVersions", versions("fraud:a1b2", "fraud:c3d4"))
    done = run("deploy", "--model-id", "m", "--image", "fraud:c3d4", "--environment", "staging")
    assert done.exit_code == 0, done.stderr
    assert "fraud:c3d4 is version 2.0.0 of m; served is the artifact registered for it" in done.stderr
    assert asked.deployments[0].version == "2.0.0"


def test_an_image_that_a_pipeline_built_is_its_version(logged_in: FakePlatform) -> None:
    asked = Asked(logged_in)
    logged_in.answer("ListVersions", versions(None, None))
    logged_in.answer(
        "ListExecutions", executions({"image": "fraud:a", "base_image": "fraud:b"}, {"image": "fraud:b"})
    )
    done = run(
        "deploy", "--model-id", "m", "--image", "fraud:b", "--environment", "staging", "--strategy", "rolling"
    )
    assert done.exit_code == 0, done.stderr
    assert asked.rollouts[0].version == "2.0.0"


@pytest.mark.parametrize(
    ("images", "options", "code"),
    [
        (("fraud:a", None), ["--image", "fraud:b"], "unknown_image"),
        (("fraud:b", "fraud:b"), ["--image", "fraud:b"], "image_ambiguous"),
        (("fraud:b", None), ["--image", "fraud:b", "--version", "2.0.0"], "image_differs"),
    ],
)
def test_an_image_that_is_not_one_version_is_refused_with_what_to_do(
    images: tuple[str | None, ...], options: list[str], code: str, logged_in: FakePlatform
) -> None:
    asked = Asked(logged_in)
    logged_in.answer("ListVersions", versions(*images))
    logged_in.answer("ListExecutions", Refusal(Status.PERMISSION_DENIED, "no", "permission_missing"))
    done = run("deploy", "--model-id", "m", "--environment", "staging", *options)
    assert (done.exit_code, done.stdout) == (5, "")
    assert f"[{code}]" in done.stderr
    assert "version" in done.stderr
    assert asked.deployments == []


def test_a_version_is_registered_with_its_image(logged_in: FakePlatform, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text("{}")
    specs: list[registry.VersionSpec] = []

    def create(body: bytes) -> registry.CreateVersionResponse:
        specs.append(registry.CreateVersionRequest.FromString(body).version)
        return registry.CreateVersionResponse()

    logged_in.answer("GetModel", registry.GetModelResponse())
    logged_in.answer("ListVersions", registry.ListVersionsResponse())
    logged_in.methods["CreateVersion"] = create
    logged_in.streams["UploadArtifact"] = lambda parts: registry.UploadArtifactResponse()
    assert run("models", "register", "m", "--path", str(path), "--image", "fraud:a1").exit_code == 0
    assert specs[0].metadata["image"] == "fraud:a1"


# -- rollouts ------------------------------------------------------------------------


def told(state: str, *, step: int = 1, verdict: str = "", **more: Any) -> rpc.GetRolloutResponse:
    made = rollout(state, step=step, current_percentage=5.0 * step, **more)
    for number, name in enumerate(("pending", "progressing", state), 1):
        made.transitions.add(
            number=number, to_state=name, actor="deployer", reason=f"because {number}", step=step
        )
        if name == state:
            break
    if verdict:
        made.verdict.verdict = verdict
        made.verdict.findings.add(
            criterion="error_rate",
            verdict=verdict,
            candidate=0.02,
            stable=0.01,
            lower=0.001,
            upper=0.03,
            limit=0,
        )
    return rpc.GetRolloutResponse(rollout=made)


@pytest.mark.parametrize(
    ("end", "code"), [("succeeded", 0), ("rolled_back", 5), ("failed", 5), ("superseded", 5)]
)
def test_a_watched_rollout_tells_a_line_a_change_and_how_it_ended(
    end: str, code: int, logged_in: FakePlatform
) -> None:
    first, last = told("progressing"), told(end, step=2, verdict="pass")
    logged_in.answer("GetRollout", first, first, first, last)
    done = run("rollouts", "watch", "m-staging")
    assert done.exit_code == code, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "rollout r-1 of m-staging: canary, 1 -> 2, by "
    assert [line for line in lines if "because 2" in line] != []
    assert sum("because 1" in line for line in lines) == 1
    assert any("verdict pass: error_rate pass" in line for line in lines)


def test_a_watched_rollout_is_an_object_a_line_as_json(logged_in: FakePlatform) -> None:
    logged_in.answer("GetRollout", told("progressing"), told("progressing"), told("succeeded"))
    done = run("rollouts", "watch", "r-1", "--output", "json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["state"] for each in found] == ["progressing", "succeeded"]
    assert found[0]["error_rate"] is None
    assert done.exit_code == 0


def test_a_watch_that_takes_too_long_exits_with_6(logged_in: FakePlatform) -> None:
    logged_in.answer("GetRollout", told("progressing"))
    done = run("rollouts", "watch", "r-1", "--timeout", "0")
    assert done.exit_code == 6
    assert "[rollout_not_ended]" in done.stderr


def test_a_rollout_is_shown_with_its_findings_and_its_history(logged_in: FakePlatform) -> None:
    logged_in.answer("GetRollout", told("progressing", verdict="fail"))
    shown = run("rollouts", "show", "m-staging").stdout
    assert "error_rate fail: candidate 0.02, stable 0.01, in [0.001, 0.03], limit 0" in shown
    assert "error rate       -" in shown
    history = run("rollouts", "history", "r-1").stdout.splitlines()
    assert "REASON" in history[0]
    assert [line.split()[0] for line in history[1:]] == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (["promote", "m-staging", "--percentage", "25"], "PromoteRollout"),
        (["rollback", "m-staging", "--reason", "slow"], "RollBackRollout"),
        (["pause", "m-staging"], "PauseRollout"),
        (["resume", "m-staging"], "ResumeRollout"),
        (["approve", "m-staging", "--comment", "go"], "ApproveRollout"),
        (["reject", "m-staging"], "RejectRollout"),
    ],
)
def test_a_control_takes_a_deployment_for_its_newest_rollout(
    arguments: list[str], method: str, logged_in: FakePlatform
) -> None:
    asked: list[Any] = []

    def answer(body: bytes) -> Any:
        asked.append(getattr(rpc, f"{method}Request").FromString(body))
        return getattr(rpc, f"{method}Response")(rollout=rollout("paused"))

    logged_in.answer("GetRollout", rpc.GetRolloutResponse(rollout=rollout()))
    logged_in.methods[method] = answer
    done = run("rollouts", *arguments, "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "paused"
    assert asked[0].rollout_id == "r-1"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (Status.PERMISSION_DENIED, "requester_cannot_approve", 4),
        (Status.FAILED_PRECONDITION, "already_approved", 5),
        (Status.NOT_FOUND, "rollout_not_found", 1),
    ],
)
def test_a_refused_approval_has_its_code(
    status: grpc.StatusCode, code: str, exit_code: int, logged_in: FakePlatform
) -> None:
    logged_in.answer("GetRollout", rpc.GetRolloutResponse(rollout=rollout()))
    logged_in.answer("ApproveRollout", Refusal(status, "no", code))
    done = run("rollouts", "approve", "r-1")
    assert done.exit_code == exit_code
    assert f"[{code}]" in done.stderr


def test_at_a_terminal_the_view_is_drawn_until_the_rollout_has_ended(logged_in: FakePlatform) -> None:
    logged_in.answer("GetDeployment", deployer.GetDeploymentResponse(deployment=deployment()))
    logged_in.answer("GetRollout", *[told("progressing")] * 3, told("succeeded", step=2))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "phantom_ml_studio.cli.main", "rollouts", "watch", "m-staging"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the terminal is gone with the process
            while part := os.read(ours, 65536):
                seen += part
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
    os.close(ours)
    text = seen.decode()
    assert "◌ progressing" in text
    assert "✔ succeeded" in text
    assert "step 2/2" in text
    assert "\x1b[" in text


def drawn(made: messages.Rollout, at: Deployment | None) -> str:
    console = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tree(Rollout.of(made), at, datetime(2026, 1, 1, tzinfo=UTC)))
    return console.export_text()


def test_the_live_view_draws_step_revisions_verdict_and_transitions() -> None:
    made = told(
        "progressing", verdict="not_enough_data", reason="it goes on", warnings=["few requests"]
    ).rollout
    made.step_ends_at.FromDatetime(datetime(2026, 1, 1, 0, 1))
    made.shadow.compared = 10
    made.replay.verdict = "pass"
    served = deployment(
        stable=deployment_pb2.Revision(revision="m-staging.1", model_version="1", phase="ready"),
        candidate=deployment_pb2.Revision(
            revision="m-staging.2",
            model_version="2",
            phase="ready",
            replicas=[deployment_pb2.ReplicaStatus(phase="ready")] * 2,
        ),
    )
    text = drawn(made, Deployment.of(served))
    for part in (
        "m-staging  canary  ◌ progressing",
        "1 → 2, r-1",
        "step 1/2  5 %  at least 60 s more",
        "m-staging.2 (2)  ready  2/2 replicas  5 %",
        "m-staging.1 (1)  ready  0/2 replicas  95 %",
        "verdict not_enough_data",
        "error_rate not_enough_data: candidate 0.02",
        "replay pass",
        "agreement 0 in [0, 0] of 10 answers",
        "! few requests",
        "because 1",
    ):
        assert part in text, text


def test_the_live_view_can_do_without_everything() -> None:
    text = drawn(messages.Rollout(rollout_id="r-1", state="rolled_back"), None)
    assert "✖ rolled_back" in text
    assert list(changes_of(None, Rollout.of(messages.Rollout(rollout_id="r-1"))))
