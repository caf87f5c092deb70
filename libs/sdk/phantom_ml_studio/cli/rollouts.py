"""`rollouts`: versions that come in by themselves, watched and steered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phantom_ml_studio.cli.output import OK, REFUSED, Format, OutputOption, show, show_line
from phantom_ml_studio.cli.session import connected

if TYPE_CHECKING:
    from phantom_ml_studio.rollout_values import Finding, Rollout
    from phantom_ml_studio.rollouts import Rollouts

rollouts = typer.Typer(help="Versions that come in by themselves.", no_args_is_help=True)

RolloutArgument = Annotated[str, typer.Argument(help="a rollout, or a deployment: its newest rollout")]
CommentOption = Annotated[str, typer.Option(help="for the history")]

COLUMNS: dict[str, Callable[[Any], Any]] = {
    "rollout": lambda r: r.rollout_id,
    "deployment": lambda r: r.deployment_id,
    "strategy": lambda r: r.strategy,
    "state": lambda r: r.state,
    "from": lambda r: r.stable_version,
    "to": lambda r: r.model_version,
    "step": lambda r: f"{r.step}/{r.steps}",
    "share %": lambda r: r.current_percentage,
    "created by": lambda r: r.created_by,
    "created at": lambda r: r.created_at,
}


def words_of(finding: Finding) -> str:
    """A criterion's judgement in a line."""
    judged = [
        f"{name} {value:.4g}"
        for name in ("candidate", "stable", "estimate")
        if (value := getattr(finding, name)) is not None
    ]
    if finding.lower is not None or finding.upper is not None:
        ends = ["-inf" if finding.lower is None else f"{finding.lower:.4g}"]
        ends.append("inf" if finding.upper is None else f"{finding.upper:.4g}")
        judged.append(f"in [{', '.join(ends)}]")
    if finding.limit is not None:
        judged.append(f"limit {finding.limit:.4g}")
    return ": ".join(part for part in (f"{finding.criterion} {finding.verdict}", ", ".join(judged)) if part)


DETAILS: dict[str, Callable[[Any], Any]] = {
    **COLUMNS,
    "reason": lambda r: r.reason,
    "step ends at": lambda r: r.step_ends_at,
    "verdict": lambda r: r.verdict.verdict if r.verdict else None,
    "findings": lambda r: [words_of(f) for f in r.verdict.findings] if r.verdict else None,
    "fired criterion": lambda r: r.fired_criterion,
    "error rate": lambda r: r.error_rate,
    "latency p95 ms": lambda r: r.latency_p95,
    "requests": lambda r: r.requests,
    "replay": lambda r: f"{r.replay.verdict}: {r.replay.reason}" if r.replay else None,
    "shadow": lambda r: f"agreement {r.shadow.agreement:.4g} of {r.shadow.compared}" if r.shadow else None,
    "approved by": lambda r: r.approved_by,
    "warnings": lambda r: r.warnings,
    "ended at": lambda r: r.ended_at,
}
_HISTORY = [
    "number",
    "at",
    "from_state",
    "to_state",
    "step",
    "percentage",
    "route_version",
    "actor",
    "reason",
]


@rollouts.command("list")
def list_rollouts(
    deployment: Annotated[str, typer.Option(help="only of this one")] = "",
    live: Annotated[bool, typer.Option("--live", help="only those that go on")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Newest first."""
    from phantom_ml_studio import Rollouts

    with connected() as client:
        show(Rollouts(client).list(deployment, live), COLUMNS, output)


@rollouts.command("show")
def show_rollout(rollout: RolloutArgument, output: OutputOption = Format.TABLE) -> None:
    """Where it stands, and what it was judged on."""
    with _service() as service:
        show(service.get(rollout), DETAILS, output)


@rollouts.command()
def history(rollout: RolloutArgument, output: OutputOption = Format.TABLE) -> None:
    """Its transitions, each with its reason in words and figures."""
    with _service() as service:
        show(list(service.get(rollout).transitions), _HISTORY, output)


@rollouts.command()
def watch(
    rollout: RolloutArgument,
    timeout: Annotated[float | None, typer.Option(help="s; without it, until the rollout has ended")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Follow it until it has ended: a live view at a terminal, else a line a change (json: an object a line).

    Exits with 0 where the version came in, with 5 where it did not.
    """
    from phantom_ml_studio import Deployments, Rollouts
    from phantom_ml_studio.cli.rollout_lines import changes_of

    with connected() as client:
        service = Rollouts(client)
        id = service.get(rollout).id  # a deployment's newest one, also when another begins meanwhile
        now = None
        if output is Format.TABLE and sys.stdout.isatty():
            from phantom_ml_studio.cli.rollout_view import live

            now = live(service.watch(id, timeout), Deployments(client))
        else:
            for before, now in _pairs(service.watch(id, timeout)):
                if output is Format.JSON:
                    show_line(now)
                else:
                    for line in changes_of(before, now):
                        print(line, flush=True)  # noqa: T201
    raise typer.Exit(OK if now is not None and now.state == "succeeded" else REFUSED)


@rollouts.command()
def promote(
    rollout: RolloutArgument,
    percentage: Annotated[
        float | None,
        typer.Option(min=0.01, max=100, help="a share to jump forward to; without it, the next step"),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Go forward now. A candidate that is still starting is waited for."""
    with _service() as service:
        show(service.promote(service.get(rollout).id, percentage), DETAILS, output)


@rollouts.command()
def rollback(
    rollout: RolloutArgument,
    reason: CommentOption = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Take the traffic from the candidate, in one route version."""
    with _service() as service:
        show(service.rollback(service.get(rollout).id, reason), DETAILS, output)


@rollouts.command()
def pause(rollout: RolloutArgument, output: OutputOption = Format.TABLE) -> None:
    """Hold it at its share."""
    with _service() as service:
        show(service.pause(service.get(rollout).id), DETAILS, output)


@rollouts.command()
def resume(rollout: RolloutArgument, output: OutputOption = Format.TABLE) -> None:
    """Go on from a pause; the step's clock begins anew."""
    with _service() as service:
        show(service.resume(service.get(rollout).id), DETAILS, output)


@rollouts.command()
def approve(
    rollout: RolloutArgument, comment: CommentOption = "", output: OutputOption = Format.TABLE
) -> None:
    """Let it begin. Nobody approves their own; a candidate that is still starting is waited for."""
    with _service() as service:
        show(service.approve(service.get(rollout).id, comment), DETAILS, output)


@rollouts.command()
def reject(
    rollout: RolloutArgument, comment: CommentOption = "", output: OutputOption = Format.TABLE
) -> None:
    """Refuse it: it ends as failed."""
    with _service() as service:
        show(service.reject(service.get(rollout).id, comment), DETAILS, output)


@contextmanager
def _service() -> Iterator[Rollouts]:
    from phantom_ml_studio import Rollouts

    with connected() as client:
        yield Rollouts(client)


def _pairs(found: Iterator[Rollout]) -> Iterator[tuple[Rollout | None, Rollout]]:
    """Each one with the one before."""
    before = None
    for now in found:
        yield before, now
        before = now
