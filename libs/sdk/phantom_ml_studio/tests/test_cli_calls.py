"""What commands say, and how they end: stdout is data, stderr is talk, each end has its exit code."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from typer.testing import CliRunner

from phantom.deployer.v1 import deployer_service_pb2 as deployer
from phantom.deployer.v1 import deployment_pb2
from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.platform.v1 import dead_letter_service_pb2 as dead_letters
from phantom.registry.v1 import model_pb2
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom_ml_studio import credentials
from phantom_ml_studio.cli.main import app
from phantom_ml_studio.tests.fake_platform import FakePlatform, Refusal

Status = grpc.StatusCode


def run(*arguments: str, stdin: str | None = None) -> click.testing.Result:
    return CliRunner().invoke(app, arguments, input=stdin, env={"COLUMNS": "200"})


# -- login ---------------------------------------------------------------------------


def test_a_login_is_stored_for_its_user_alone_and_says_until_when(
    platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHANTOM_ADDRESS", platform.address)
    asked: list[governance.LoginRequest] = []

    def login(body: bytes) -> governance.LoginResponse:
        asked.append(governance.LoginRequest.FromString(body))
        answer = governance.LoginResponse()
        answer.token.value = "fresh"
        answer.token.expires_at.FromSeconds(4_000_000_000)
        return answer

    platform.methods["Login"] = login
    done = run("auth", "login", "--username", "ada", "--password-stdin", stdin="pass word \r\n")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "logged in as ada" in done.stderr
    assert (asked[0].username, asked[0].password) == ("ada", "pass word ")
    stored = credentials.load()
    assert (stored.token, stored.address, stored.username) == ("fresh", platform.address, "ada")
    file = credentials.config_dir() / "credentials.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("auth", "logout").exit_code == 0
    assert run("models", "list").exit_code == 4


def test_a_wrong_password_exits_with_4_and_stores_nothing(
    platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHANTOM_ADDRESS", platform.address)
    platform.answer("Login", Refusal(Status.UNAUTHENTICATED, "wrong", "invalid_credentials"))
    done = run("auth", "login", "--username", "ada", "--password-stdin", stdin="x\n")
    assert done.exit_code == 4
    assert "[invalid_credentials]" in done.stderr
    assert not (credentials.config_dir() / "credentials.json").exists()
    empty = run("auth", "login", "--username", "ada", "--password-stdin", stdin="")
    assert empty.exit_code == 1


# -- exit codes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.NOT_FOUND, 1),
        (Status.INVALID_ARGUMENT, 1),
        (Status.INTERNAL, 1),
        (Status.ABORTED, 1),
        (Status.UNAUTHENTICATED, 4),
        (Status.PERMISSION_DENIED, 4),
        (Status.FAILED_PRECONDITION, 5),
        (Status.DEADLINE_EXCEEDED, 6),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_refusal_has_its_exit_code_its_reason_and_its_trace(
    status: grpc.StatusCode, code: int, logged_in: FakePlatform
) -> None:
    logged_in.answer("GetDeployment", Refusal(status, "because of this", "this_code"))
    done = run("deployments", "show", "d", "--output", "json")
    assert done.exit_code == code
    assert done.stdout == ""
    assert "error: because of this [this_code]" in done.stderr
    trace = logged_in.seen[0][1]["traceparent"].split("-")[1]
    assert f"trace {trace}" in done.stderr


def test_violations_are_said_field_by_field(logged_in: FakePlatform) -> None:
    logged_in.answer(
        "CreateUser",
        Refusal(Status.INVALID_ARGUMENT, "no", "weak_password", violations={"password": "has 3 characters"}),
    )
    done = run("users", "create", "bob", "--password-stdin", stdin="abc\n")
    assert done.exit_code == 1
    assert "password: has 3 characters" in done.stderr


def test_without_a_login_every_call_exits_with_4_naming_the_command() -> None:
    done = run("models", "list")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "phantom-ml-studio auth login" in done.stderr


def test_a_pending_promotion_exits_with_3_and_says_who_is_waited_for(logged_in: FakePlatform) -> None:
    answer = registry.PromoteModelResponse()
    answer.promotion.promotion_id, answer.promotion.state = "p-1", "pending"
    logged_in.answer("PromoteModel", answer)
    arguments = ["models", "promote", "m", "1.0.0", "--to", "production", "--reviewer", "bob"]
    done = run(*arguments, "--approval-required", "-o", "json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["promotion_id"] == "p-1"
    assert "waiting for bob" in done.stderr
    assert "approvals grant p-1" in done.stderr
    answer.promotion.state = "executed"
    assert run(*arguments).exit_code == 0


def deployment(phase: str, revision_phase: str, reason: str = "", route: int = 1) -> Any:
    found = deployment_pb2.Deployment(deployment_id="m-prod", phase=phase, reason=reason, route_version=route)
    found.acknowledged_route_version = route
    found.stable.revision, found.stable.phase, found.stable.reason = "m-prod.1", revision_phase, reason
    return found


def test_a_wait_says_each_reason_once_and_ends_with_the_ready_deployment(logged_in: FakePlatform) -> None:
    logged_in.answer("Deploy", deployer.DeployResponse(deployment=deployment("pending", "pending")))
    states = [
        deployment("pending", "starting", "replica 1 starts"),
        deployment("pending", "starting", "replica 1 starts"),
        deployment("pending", "starting", "replica 1 loads"),
        deployment("ready", "ready"),
    ]
    logged_in.answer("GetDeployment", *[deployer.GetDeploymentResponse(deployment=s) for s in states])
    done = run("deploy", "--model-id", "m", "--wait-for-ready", "--output", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["phase"] == "ready"
    assert done.stderr.splitlines() == ["replica 1 starts", "replica 1 loads"]


def test_a_wait_that_takes_too_long_exits_with_6_and_the_last_reason(logged_in: FakePlatform) -> None:
    logged_in.answer("Deploy", deployer.DeployResponse(deployment=deployment("pending", "pending")))
    slow = deployer.GetDeploymentResponse(deployment=deployment("pending", "starting", "still loading"))
    logged_in.answer("GetDeployment", slow)
    done = run("deploy", "--model-id", "m", "--wait-for-ready", "--timeout", "0.3")
    assert done.exit_code == 6
    assert "[not_ready]" in done.stderr
    assert "still loading" in done.stderr


def test_a_revision_that_fails_ends_the_wait_at_once_with_1(logged_in: FakePlatform) -> None:
    logged_in.answer("Deploy", deployer.DeployResponse(deployment=deployment("pending", "pending")))
    broken = deployer.GetDeploymentResponse(deployment=deployment("failed", "failed", "corrupt_model"))
    logged_in.answer("GetDeployment", broken)
    done = run("deploy", "--model-id", "m", "--wait-for-ready")
    assert done.exit_code == 1
    assert "[revision_failed]" in done.stderr
    assert "corrupt_model" in done.stderr


def test_an_interrupt_exits_with_130(platform: FakePlatform, tmp_path: Path) -> None:
    arrived = threading.Event()

    def never(_: bytes) -> None:
        arrived.set()
        threading.Event().wait(20)
        raise Refusal(Status.CANCELLED)

    platform.methods["ListModels"] = never
    credentials.save(credentials.Login(platform.address, "ada", "t", 4_000_000_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "phantom_ml_studio.cli.main", "models", "list"],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert arrived.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err


def test_where_nobody_answers_it_says_so_at_once_and_tries_on(logged_in: FakePlatform) -> None:
    logged_in.answer(
        "ListModels",
        Refusal(Status.UNAVAILABLE, "starting up", "starting"),
        Refusal(Status.UNAVAILABLE, "starting up", "starting"),
        registry.ListModelsResponse(),
    )
    done = run("models", "list", "--output", "json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    assert done.stderr.count("trying again") == 1


# -- data ----------------------------------------------------------------------------

EMPTY = {
    "models list": ("ListModels", registry.ListModelsResponse()),
    "approvals list": ("ListApprovals", registry.ListApprovalsResponse()),
    "env list": ("ListEnvironments", deployer.ListEnvironmentsResponse()),
    "deployments list": ("ListDeployments", deployer.ListDeploymentsResponse()),
    "deployments gateways": ("ListGateways", deployer.ListGatewaysResponse()),
    "users list": ("ListUsers", governance.ListUsersResponse()),
    "dlq list --service monitor": ("ListDeadLetters", dead_letters.ListDeadLettersResponse()),
}


@pytest.mark.parametrize("command", EMPTY)
def test_an_empty_list_is_an_empty_json_list_and_exits_with_0(command: str, logged_in: FakePlatform) -> None:
    method, answer = EMPTY[command]
    logged_in.answer(method, answer)
    done = run(*command.split(), "--output", "json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "[]\n", "")
    table = run(*command.split())
    assert table.exit_code == 0
    assert len(table.stdout.splitlines()) == 1  # the header


def model(name: str) -> Any:
    return model_pb2.Model(model_id=name, latest_version="1.0.0", stage_versions={"production": "1.0.0"})


def test_all_pages_of_a_list_are_fetched_and_shown_as_a_table_and_as_json(logged_in: FakePlatform) -> None:
    tokens: list[str] = []

    def pages(body: bytes) -> registry.ListModelsResponse:
        tokens.append(registry.ListModelsRequest.FromString(body).page_token)
        number = int(tokens[-1] or "0")
        following = str(number + 1) if number < 2 else ""
        return registry.ListModelsResponse(models=[model(f"model-{number}")], next_page_token=following)

    logged_in.methods["ListModels"] = pages
    found = json.loads(run("models", "list", "-o", "json").stdout)
    assert [each["model_id"] for each in found] == ["model-0", "model-1", "model-2"]
    assert tokens == ["", "1", "2"]
    assert found[0]["stage_versions"] == {"production": "1.0.0"}
    header, *rows = run("models", "list").stdout.splitlines()
    assert header.split()[:2] == ["MODEL_ID", "LATEST_VERSION"]
    assert [row.split()[0] for row in rows] == ["model-0", "model-1", "model-2"]
    assert "production=1.0.0" in rows[0]


def test_a_further_version_is_registered_where_the_model_exists(
    logged_in: FakePlatform, tmp_path: Path
) -> None:
    path = tmp_path / "m.json"
    path.write_text("{}")
    specs: list[registry.VersionSpec] = []

    def create(body: bytes) -> registry.CreateVersionResponse:
        specs.append(registry.CreateVersionRequest.FromString(body).version)
        return registry.CreateVersionResponse(
            version=model_pb2.ModelVersion(model_id="m", version=specs[-1].version)
        )

    logged_in.answer("GetModel", registry.GetModelResponse(model=model("m")))
    logged_in.answer("ListVersions", registry.ListVersionsResponse())
    logged_in.methods["CreateVersion"] = create
    logged_in.streams["UploadArtifact"] = lambda parts: registry.UploadArtifactResponse(
        digest=parts and "sha256:" + "0" * 64
    )
    done = run("models", "register", "m", "--version", "1.1.0", "--path", str(path), "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "1.1.0"
    assert specs[0].stage == model_pb2.STAGE_STAGING
    refused = run("models", "register", "m", "--version", "1.2.0", "--path", str(path), "--tag", "x")
    assert refused.exit_code == 2
    missing = run("models", "register", "m", "--path", str(tmp_path / "nothing"))
    assert missing.exit_code == 1
    assert "model_file_missing" in missing.stderr


def test_a_schema_file_that_is_no_json_object_is_a_usage_error(
    logged_in: FakePlatform, tmp_path: Path
) -> None:
    for content in ("{", "[]", "\xff"):
        path = tmp_path / "schema.json"
        path.write_text(content, encoding="latin-1")
        done = run("models", "register", "m", "--path", str(path), "--schema", str(path))
        assert done.exit_code == 2, done.stderr
        assert str(path) in done.stderr
