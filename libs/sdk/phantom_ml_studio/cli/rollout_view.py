"""A rollout as a tree that is drawn anew at each change. Only this module loads rich."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from phantom_ml_studio.cli.rollouts import words_of
from phantom_ml_studio.deployments import Deployments
from phantom_ml_studio.errors import NotFound, Unavailable
from phantom_ml_studio.rollout_values import Rollout
from phantom_ml_studio.values import Deployment, Revision

_STATES = {
    "succeeded": ("✔", "green"),
    "rolled_back": ("✖", "red"),
    "failed": ("✖", "red"),
    "superseded": ("✖", "yellow"),
    "paused": ("‖", "yellow"),
    "waiting_for_approval": ("‖", "yellow"),
    "rolling_back": ("↶", "red"),
}
_VERDICTS = {"pass": "green", "fail": "red"}
_SHOWN_TRANSITIONS = 6
_REFRESH_HZ = 2.0


def live(found: Iterator[Rollout], deployments: Deployments) -> Rollout | None:
    """Draws each change until the rollout has ended; the last picture stays. Answers the last one."""
    now: Rollout | None = None
    deployment: Deployment | None = None

    def picture() -> RenderableType:
        return tree(now, deployment, datetime.now(UTC)) if now else Text("...")

    with Live(get_renderable=picture, console=Console(), refresh_per_second=_REFRESH_HZ):
        for now in found:
            deployment = _deployment(deployments, now) or deployment
    return now


def _deployment(deployments: Deployments, rollout: Rollout) -> Deployment | None:
    """None where it is gone, or nobody answers just now: the picture keeps the one before."""
    try:
        return deployments.get(rollout.deployment_id)
    except (NotFound, Unavailable):
        return None


def tree(rollout: Rollout, deployment: Deployment | None, now: datetime) -> Tree:
    """The whole picture."""
    sign, colour = _STATES.get(rollout.state, ("◌", "cyan"))
    head = Text.assemble(
        (rollout.deployment_id, "bold"), f"  {rollout.strategy}  ", (f"{sign} {rollout.state}", colour)
    )
    root = Tree(head)
    root.add(
        Text(f"{rollout.stable_version} → {rollout.model_version}, {rollout.id}, by {rollout.created_by}")
    )
    if rollout.reason:
        root.add(Text(rollout.reason, colour))
    root.add(_step(rollout, now))
    _revisions(root, rollout, deployment)
    _verdict(root, rollout)
    for warning in rollout.warnings:
        root.add(Text(f"! {warning}", "yellow"))
    _transitions(root, rollout)
    return root


def _step(rollout: Rollout, now: datetime) -> RenderableType:
    words = f"step {rollout.step}/{rollout.steps}  {rollout.current_percentage:g} %"
    if rollout.step_ends_at and not rollout.has_ended:
        left_s = (rollout.step_ends_at - now).total_seconds()
        words += f"  at least {left_s:.0f} s more" if left_s > 0 else "  its time is over"
    line = Table.grid(padding=(0, 2))
    line.add_row(ProgressBar(100, rollout.current_percentage, width=30), words)
    return line


def _revisions(root: Tree, rollout: Rollout, deployment: Deployment | None) -> None:
    shares = {rollout.candidate: rollout.current_percentage, rollout.stable: 100 - rollout.current_percentage}
    if deployment is None:
        return
    branch = root.add("revisions")
    live = (deployment.candidate, deployment.stable, deployment.standby, *deployment.withdrawing)
    for revision in (each for each in live if each is not None):
        share = shares.get(revision.revision)
        branch.add(_revision(revision, share if revision.phase == "ready" else None, deployment.replicas))


def _revision(revision: Revision, share: float | None, wanted: int) -> Text:
    ready = sum(r.phase == "ready" for r in revision.replicas)
    total = revision.wanted_replicas or wanted
    colour = "green" if ready >= total and revision.phase in ("ready", "standby") else "yellow"
    parts = [
        f"{revision.revision} ({revision.model_version})",
        f"{revision.phase}",
        f"{ready}/{total} replicas",
    ]
    if share is not None:
        parts.append(f"{share:g} %")
    if revision.reason:
        parts.append(revision.reason)
    return Text("  ".join(parts), colour)


def _verdict(root: Tree, rollout: Rollout) -> None:
    verdict = rollout.verdict
    if verdict is not None:
        requests = f"{verdict.candidate_requests:,} requests, stable {verdict.stable_requests:,}"
        colour = _VERDICTS.get(verdict.verdict, "yellow")
        branch = root.add(Text.assemble("verdict ", (verdict.verdict, colour), f"  {requests}"))
        for finding in verdict.findings:
            branch.add(Text(words_of(finding), _VERDICTS.get(finding.verdict, "yellow")))
    if rollout.replay:
        root.add(Text(f"replay {rollout.replay.verdict}: {rollout.replay.reason}"))
    if rollout.shadow:
        shadow = rollout.shadow
        ends = f"[{shadow.agreement_lower:.4g}, {shadow.agreement_upper:.4g}]"
        root.add(Text(f"shadow: agreement {shadow.agreement:.4g} in {ends} of {shadow.compared:,} answers"))


def _transitions(root: Tree, rollout: Rollout) -> None:
    if not rollout.transitions:
        return
    hidden = len(rollout.transitions) - _SHOWN_TRANSITIONS
    branch = root.add("transitions" + (f" ({hidden} before)" if hidden > 0 else ""))
    for each in rollout.transitions[-_SHOWN_TRANSITIONS:]:
        clock = f"{each.at:%H:%M:%S}" if each.at else ""
        branch.add(Text(f"{clock}  {each.percentage:g} %  {each.to_state}  {each.reason}"))
