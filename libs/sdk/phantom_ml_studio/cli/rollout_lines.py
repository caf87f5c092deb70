"""A rollout's way as plain lines, for logs and pipes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from phantom_ml_studio.rollout_values import Rollout, Transition


def changes_of(before: Rollout | None, now: Rollout) -> Iterator[str]:
    """What is new: at first all transitions; then further ones, and verdicts that changed."""
    if before is None:
        versions = f"{now.stable_version} -> {now.model_version}"
        yield f"rollout {now.id} of {now.deployment_id}: {now.strategy}, {versions}, by {now.created_by}"
        yield from (f"warning: {warning}" for warning in now.warnings)
    last = before.transitions[-1].number if before and before.transitions else 0
    yield from (_line(t) for t in now.transitions if t.number > last)
    if now.verdict and _words(before) != _words(now):
        yield f"{_clock(now.verdict.judged_at)}  verdict {now.verdict.verdict}: {'; '.join(_words(now)[1:])}"


def _line(transition: Transition) -> str:
    states = " -> ".join(state for state in (transition.from_state, transition.to_state) if state)
    return (
        f"{_clock(transition.at)}  step {transition.step}  {transition.percentage:g} %  {states}  "
        f"[{transition.actor}] {transition.reason}"
    )


def _words(rollout: Rollout | None) -> list[str]:
    """The verdict and each criterion's, without the figures: those change all the time."""
    if rollout is None or rollout.verdict is None:
        return []
    return [rollout.verdict.verdict, *(f"{f.criterion} {f.verdict}" for f in rollout.verdict.findings)]


def _clock(at: datetime | None) -> str:
    return f"{at:%H:%M:%S}" if at else "--:--:--"
