"""The command line as a whole: quick to start, the same everywhere, never waiting for an answer nobody can give."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from phantom_ml_studio.cli.main import app

ROOT = typer.main.get_command(app)
HEAVY = ("grpc", "numpy", "google.protobuf", "phantom_contracts", "phantom_statistics", "rich", "yaml")
# They print no data: talk, logs, or nothing.
TALK = {"auth login", "auth logout", "auth change-password"}


def commands(
    command: click.Command = ROOT, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """("models list", command) for every command."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))
    else:
        yield " ".join(path), command


NAMES = dict(commands())


def run(*arguments: str, stdin: str | None = None) -> click.testing.Result:
    return CliRunner().invoke(app, arguments, input=stdin, prog_name="phantom-ml-studio")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["models", "register", "--help"],
        ["deploy", "--help"],
        ["models", "lst"],
        ["rollouts", "watch", "--help"],
        ["pipelines", "--help"],
    ],
)
def test_help_and_mistakes_are_answered_without_loading_what_only_calls_need(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['phantom-ml-studio', *sys.argv[1:]]\n"
        "from phantom_ml_studio.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_commands_of_the_contract_are_there() -> None:
    wanted = """models list,models show,models register,models promote,approvals list,approvals grant,
        approvals reject,deploy,deployments list,deployments show,canary promote,canary rollback,users create,
        env create,env list,predict,explain-route,dlq list,dlq show,dlq replay,auth login,
        test,test-suites create,test-suites list,rollouts list,rollouts show,rollouts watch,rollouts promote,
        rollouts rollback,rollouts pause,rollouts resume,rollouts approve,rollouts reject,rollouts history,
        pipelines create,pipelines add-stage,pipelines apply,pipelines execute,pipelines status,pipelines watch,
        pipelines approve,pipelines reject,pipelines cancel,pipelines list"""
    assert {" ".join(name.split()) for name in wanted.split(",")} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_says_what_it_does_and_prints_data_as_a_table_or_json(name: str) -> None:
    command = NAMES[name]
    assert command.help
    outputs = [p for p in command.params if "--output" in p.opts]
    assert bool(outputs) is (name not in TALK), f"{name}: --output"
    for parameter in outputs:
        assert "-o" in parameter.opts
        assert parameter.default == "table"


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_command_exits_with_0(name: str) -> None:
    done = run(*name.split(), "--help")
    assert done.exit_code == 0
    assert "Usage: phantom-ml-studio" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["model"], "models"),
        (["models", "lst"], "list"),
        (["deploymnets"], "deployments"),
        (["models", "list", "--stag", "x"], "--stage"),
        (["canary", "promot", "d"], "promote"),
    ],
)
def test_a_slip_is_a_usage_error_that_suggests_what_was_meant(arguments: list[str], suggestion: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert suggestion in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "register"],
        ["models", "register", "m", "--path", "x", "--output", "yaml"],
        ["canary", "promote", "d", "--percentage", "101"],
        ["predict", "e"],
        ["predict", "e", "--json", "a", "--csv", "b"],
        ["deployments", "scale", "d", "0"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (["auth", "login", "--username", "ada"], "--password-stdin"),
        (["deployments", "delete", "d"], "--yes"),
    ],
)
def test_nothing_is_asked_where_there_is_no_terminal(arguments: list[str], way_out: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phantom_ml_studio.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert way_out in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("typed", "completed"), [("phantom-ml-studio mod", "models"), ("phantom-ml-studio canary pro", "promote")]
)
def test_the_shell_completes_commands(typed: str, completed: str) -> None:
    words = typed.split()
    environment = {
        **os.environ,
        "_PHANTOM_ML_STUDIO_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    script = Path(sys.executable).with_name("phantom-ml-studio")
    done = subprocess.run(
        [str(script)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert completed in done.stdout.split()


def test_a_completion_script_can_be_had_for_each_shell() -> None:
    assert "--show-completion" in run("--help").stdout
