"""`env`, `deployments` and `canary`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phantom_ml_studio.cli.output import USAGE, Format, OutputOption, fail, say, show
from phantom_ml_studio.cli.session import connected

if TYPE_CHECKING:
    from phantom_ml_studio.values import Deployment

environments = typer.Typer(help="Where deployments run.", no_args_is_help=True)
deployments = typer.Typer(help="Models behind endpoints.", no_args_is_help=True)
canary = typer.Typer(help="Move traffic between two versions by hand.", no_args_is_help=True)

WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="until every gateway routes by it")]


def _version(name: str) -> Callable[[Any], str | None]:
    def get(deployment: Deployment) -> str | None:
        revision = getattr(deployment, name)
        return f"{revision.revision} ({revision.model_version}, {revision.phase})" if revision else None

    return get


_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "deployment": lambda d: d.deployment_id,
    "environment": lambda d: d.environment,
    "phase": lambda d: d.phase,
    "stable": _version("stable"),
    "candidate": _version("candidate"),
    "canary %": lambda d: d.candidate_percent,
    "replicas": lambda d: d.replicas,
    "route": lambda d: d.route_version,
}
DETAILS: dict[str, Callable[[Any], Any]] = {
    **_COLUMNS,
    "reason": lambda d: d.reason,
    "hash field": lambda d: d.hash_field,
    "aliases": lambda d: d.aliases,
    "acknowledged route": lambda d: d.acknowledged_route_version,
    "standby": _version("standby"),
    "shadow %": lambda d: d.shadow_percent,
    "withdrawing": lambda d: [f"{r.revision}: {r.reason}" for r in d.withdrawing],
}
_REPLICA: dict[str, Callable[[Any], Any]] = {
    "replica": lambda r: r.replica_id,
    "address": lambda r: r.address,
    "phase": lambda r: r.phase,
    "pid": lambda r: r.pid,
    "restarts": lambda r: r.restarts,
    "reason": lambda r: r.reason,
}


@environments.command("create")
def create_environment(
    name: Annotated[str, typer.Option(help="as it is called in deploy")],
    type: Annotated[str, typer.Option(help="local")] = "local",
    output: OutputOption = Format.TABLE,
) -> None:
    """Create an environment."""
    from phantom_ml_studio import Environments

    with connected() as client:
        show(Environments(client).create(name, type), ["name", "type", "created_by"], output)


@environments.command("list")
def list_environments(output: OutputOption = Format.TABLE) -> None:
    """Every environment."""
    from phantom_ml_studio import Environments

    with connected() as client:
        show(Environments(client).list(), ["name", "type", "created_by"], output)


@deployments.command("list")
def list_deployments(
    environment: Annotated[str, typer.Option(help="only this one")] = "", output: OutputOption = Format.TABLE
) -> None:
    """Every deployment."""
    from phantom_ml_studio import Deployments

    with connected() as client:
        show(Deployments(client).list(environment), _COLUMNS, output)


@deployments.command("show")
def show_deployment(deployment: str, output: OutputOption = Format.TABLE) -> None:
    """A deployment, its revisions and their replicas."""
    from phantom_ml_studio import Deployments

    with connected() as client:
        found = Deployments(client).get(deployment)
        show(found, DETAILS, output)
        if output is Format.TABLE:
            revisions = [
                r for r in (found.stable, found.candidate, found.standby, *found.withdrawing) if r is not None
            ]
            say("")
            show([replica for r in revisions for replica in r.replicas], _REPLICA, output)


@deployments.command("scale")
def scale_deployment(
    deployment: str,
    replicas: Annotated[int, typer.Option(min=1, max=64)],
    output: OutputOption = Format.TABLE,
) -> None:
    """Change the number of replicas of every live revision."""
    from phantom_ml_studio import Deployments

    with connected() as client:
        show(Deployments(client).scale(deployment, replicas), DETAILS, output)


@deployments.command("delete")
def delete_deployment(
    deployment: str,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take the endpoint away, then its replicas."""
    from phantom_ml_studio import Deployments

    confirm(f"delete {deployment} and stop serving it?", yes)
    with connected() as client:
        show(Deployments(client).delete(deployment), DETAILS, output)


@deployments.command("gateways")
def list_gateways(output: OutputOption = Format.TABLE) -> None:
    """The gateways, and the route versions that each has applied and drained."""
    from phantom_ml_studio import Deployments

    with connected() as client:
        columns = ["boot_id", "state", "last_seen", "applied", "drained"]
        show(Deployments(client).gateways(), columns, output)


@canary.command()
def promote(
    deployment: str,
    percentage: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="the candidate's share; without it, complete the rollout"),
    ] = None,
    wait: WaitOption = True,
    output: OutputOption = Format.TABLE,
) -> None:
    """Give the candidate a share of the traffic, or all of it for good and take the old version away."""
    from phantom_ml_studio import Deployments

    with connected() as client:
        service = Deployments(client)
        if percentage is None:
            show(service.complete_rollout(deployment, wait=wait), DETAILS, output)
        else:
            show(service.set_canary_weight(deployment, percentage, wait=wait), DETAILS, output)


@canary.command()
def rollback(
    deployment: str,
    remove: Annotated[bool, typer.Option("--remove", help="stop the candidate's replicas, too")] = False,
    reason: Annotated[str, typer.Option(help="for the history")] = "",
    wait: WaitOption = True,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take all traffic from the candidate, in one route version."""
    from phantom_ml_studio import Deployments

    with connected() as client:
        done = Deployments(client).rollback_canary(deployment, remove=remove, reason=reason, wait=wait)
        show(done, DETAILS, output)


def confirm(question: str, yes: bool) -> None:
    """Ask at the terminal, unless `--yes` was given; exit code 2 where there is none."""
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        fail("there is no terminal to ask at: pass --yes", USAGE)
    typer.confirm(question, abort=True, err=True)
