"""Examples in our own documents: each command parses, and those of the services' READMEs run on a real stack."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import typer
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from harness import models
from harness.cli import Shell
from harness.stack import ROOT
from phantom_local.cli import add_to
from phantom_ml_studio import Deployments, InferenceClient, ModelRegistry
from phantom_ml_studio.cli.main import app

if TYPE_CHECKING:
    from harness.people import People
    from harness.stack import Stack

DOCUMENTS = sorted(
    path
    for pattern in (
        "README.md",
        "docs/*.md",
        "services/*/README.md",
        "libs/*/README.md",
        "deploy/*/README.md",
    )
    for path in ROOT.glob(pattern)
)
COMMAND = re.compile(r"(?:^|\$ |`|&& |; )(phantom-ml-studio [^`\n]+)", re.MULTILINE)
PROGRAM = "phantom-ml-studio"
FENCED = re.compile(r"```.*?```", re.DOTALL)


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a document."""
    found = re.findall(r"```(\w*)\n(.*?)```", path.read_text(), re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(text: str) -> list[str]:
    """The command lines in a text, without prompts, comments, redirections and pipes."""
    found = []
    for line in COMMAND.findall(re.sub(r"\\\n\s*", "", text)):
        line = re.split(r"\s+#\s|\s+<<<|\s+\||;|\s+>|\s+\.\.\.|\s+\[", line)[0]
        found.append(line.strip().rstrip(":,.)"))
    return found


def parses(line: str) -> None:
    """Raises as the command line itself would."""
    command, arguments = typer.main.get_command(everything()), shlex.split(line)[1:]
    context = command.make_context(PROGRAM, arguments, resilient_parsing=False)
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(rest), parent=context)


def everything() -> typer.Typer:
    """All commands, those of the local stack included."""
    whole = typer.Typer()
    whole.registered_commands, whole.registered_groups = [*app.registered_commands], [*app.registered_groups]
    add_to(whole)
    return whole


def mistakes(text: str) -> list[str]:
    """Commands that would not run: whole ones in fenced blocks; prose may leave out what is required."""
    found = []
    examples = commands("\n".join(FENCED.findall(text)))
    for line in dict.fromkeys([*examples, *commands(FENCED.sub("", text))]):
        try:
            parses(line)
        except typer.Exit:  # --help
            continue
        except Exception as error:
            if line in examples or not re.search("Missing|requires an argument", str(error)):
                found.append(f"{line}: {error!r}")
    return found


def test_a_wrong_example_would_be_seen() -> None:
    assert mistakes("```\n$ phantom-ml-studio env create production\n```")
    assert mistakes("Say `phantom-ml-studio models lst`.")
    assert mistakes("```\nphantom-ml-studio deploy m 1.0.0 --env production\n```")
    assert mistakes("```\n$ phantom-ml-studio deploy --model-id m \\\n    --strategi canary\n```")
    assert not mistakes("`phantom-ml-studio canary --help` and ```\nphantom-ml-studio --help\n```")
    assert not mistakes(
        "`phantom-ml-studio deploy` and ```\nphantom-ml-studio deploy --model-id m  # so\n```"
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_our_documents_parses(path: Path) -> None:
    assert mistakes(path.read_text()) == []


@pytest.fixture(scope="module")
def shell(stack: Stack, people: People, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """An administrator's, with what the READMEs take as there: two versions of a model, and an endpoint."""
    folder = tmp_path_factory.mktemp("readmes")
    registry = ModelRegistry(people.engineer.client)
    registry.register_model(
        "fraud-detection", models.xgboost_file(folder / "1.json", 1), schema=models.SCHEMA, stage="production"
    )
    registry.create_version("fraud-detection", "1.1.0", models.xgboost_file(folder / "2.json", 2))
    inputs = [{"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [0.1, 0.2]}]
    (folder / "request.json").write_text(json.dumps({"inputs": inputs}))
    return Shell(stack, folder).log_in(people.admin)


def ran(shell: Shell, line: str, stdin: str = "") -> str:
    """What a line prints."""
    done = shell.bash(line, stdin)
    assert done.code == 0, f"{line}: {done.err}"
    return done.out


def test_the_deployers_readme_deploys_and_promotes(shell: Shell) -> None:
    (block,) = blocks(ROOT / "services/deployer/README.md", "console")
    lines = commands(block)
    assert len(lines) == 4
    said = [ran(shell, line) for line in lines]
    assert re.search(r"canary %\s+25\b", said[-1])


def test_the_governances_readme_logs_in_and_creates_a_user(shell: Shell, stack: Stack) -> None:
    lines = commands("\n".join(blocks(ROOT / "services/governance/README.md", "sh")))
    login, create = [line for line in lines if "auth login" in line or "users create" in line]
    ran(shell, f"{login} --password-stdin", stack.admin_password + "\n")
    assert "grace" in ran(shell, f"{create} --password-stdin", "a long password\n")


def test_the_gateways_readme_calls_it(shell: Shell, stack: Stack) -> None:
    """After the deployer's README, whose endpoint it asks."""
    (block,) = blocks(ROOT / "services/inference-gateway/README.md", "sh")
    places = {"<endpoint>": "fraud-detection-prod"}
    places |= {"localhost:8000": stack.http, "localhost:8001": stack.grpc, "localhost:8002": stack.metrics}
    for name, place in places.items():
        block = block.replace(name, place)
    lines = [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]
    metadata, infer, reflected, ready = (line for line in lines if line)
    assert json.loads(ran(shell, metadata))["inputs"]
    assert "phantom-prediction-id" in ran(shell, infer).lower()
    assert "ready" in ran(shell, ready) or ran(shell, ready)
    # grpcurl may not be here; what it asks for is.
    method = re.search(r"(inference\.\w+)/(\w+)", reflected)
    assert method is not None
    with grpc.insecure_channel(stack.grpc) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert method[1] in database.get_services()
        file = database.FindFileContainingSymbol(method[1])
        (service,) = [each for each in file.service if method[1].endswith(each.name)]
        assert method[2] in {each.name for each in service.method}


def test_the_monitors_readme_prints_figures(shell: Shell, stack: Stack, people: People) -> None:
    with InferenceClient(stack.grpc) as client:
        client.predict("fraud-detection", [{"amount": 0.5, "hour": 0.5}])
    (block,) = blocks(ROOT / "services/monitor/README.md", "python")
    code = block.replace("flights-prod", "fraud-detection-prod")
    wait = """
import time
give_up = time.monotonic() + 30
while not Monitoring(Client()).summary("fraud-detection-prod") and time.monotonic() < give_up: time.sleep(0.1)
"""
    head, body = code.split("\n\n", 1)
    done = shell.python(head + wait + body)
    assert done.code == 0, done.err
    assert "fraud-detection-prod.1" in done.out
    Deployments(people.engineer.client).delete("fraud-detection-prod")


def run_sdk_example(shell: Shell) -> str:
    """The SDK's README, once the registry has something to list."""
    done = shell.python(blocks(ROOT / "libs/sdk/README.md", "python")[0])
    assert "deployment_not_found" in done.out, done.err
    assert done.out.rstrip().endswith("True")
    return done.out


def run_sdk_rollouts(shell: Shell) -> int:
    """Where nothing is served, so that nothing is rolled out; the guide's page on canaries rolls out."""
    done = shell.python(blocks(ROOT / "libs/sdk/README.md", "python")[1])
    assert done.code == 0, done.err
    refused, violation = done.out.splitlines()
    assert refused.endswith("_not_found")
    assert "did you mean 'initial_percentage'" in violation
    return done.code


def run_sdk_pipelines(shell: Shell) -> int:
    """One stage, to its end."""
    done = shell.python(blocks(ROOT / "libs/sdk/README.md", "python")[2])
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "succeeded 100.0%", done.out
    return done.code


RUNS: dict[str, Callable[[Shell], object]] = {
    "sdk": run_sdk_example,
    "sdk rollouts": run_sdk_rollouts,
    "sdk pipelines": run_sdk_pipelines,
    "registry": lambda shell: ran(shell, "phantom-ml-studio models list"),
    "contracts": lambda shell: shell.python(blocks(ROOT / "libs/contracts/README.md", "python")[0]).code,
    "statistics": lambda shell: shell.python(blocks(ROOT / "libs/statistics/README.md", "python")[0]).code,
}


@pytest.mark.parametrize("name", RUNS)
def test_the_small_examples_run(name: str, shell: Shell) -> None:
    found = RUNS[name](shell)
    assert found == 0 or "fraud-detection" in str(found)
