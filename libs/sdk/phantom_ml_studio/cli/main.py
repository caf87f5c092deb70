"""`phantom-ml-studio`: the composition of its commands."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Any

import typer

from phantom_ml_studio.cli import (
    access,
    deploy,
    deployments,
    models,
    operations,
    pipelines,
    predictions,
    rollouts,
    suites,
)
from phantom_ml_studio.cli.output import INTERRUPTED, say

app = typer.Typer(
    name="phantom-ml-studio",
    help="Register, deploy, roll out and watch machine-learning models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # loading rich would take as long as everything else
)
app.add_typer(access.auth, name="auth")
app.add_typer(access.users, name="users")
app.add_typer(models.models, name="models")
app.add_typer(models.approvals, name="approvals")
app.add_typer(deployments.environments, name="env")
app.add_typer(deployments.deployments, name="deployments")
app.add_typer(deployments.canary, name="canary")
app.add_typer(rollouts.rollouts, name="rollouts")
app.add_typer(pipelines.pipelines, name="pipelines")
app.add_typer(suites.test_suites, name="test-suites")
app.add_typer(operations.dead_letters, name="dlq")
app.command("deploy")(deploy.deploy)
app.command("test")(suites.run_tests)
app.command("predict")(predictions.predict)
app.command("explain-route")(predictions.explain_route)


def _add_installed_commands() -> None:
    """Commands that other packages bring: `up`, `down`, `status` and `logs` come with the local stack."""
    for point in entry_points(group="phantom_ml_studio.commands"):
        extension: Any = point.load()
        extension(app)


def main() -> None:
    """The console script."""
    _add_installed_commands()
    try:
        app()
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
