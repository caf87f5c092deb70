"""After a switch: the old revision stays warm for the rollback window, and traffic goes back to it in one route."""

from __future__ import annotations

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.rollouts.strategies import strategy as common
from phantom_deployer.domain.rollouts.turn import Turn
from phantom_statistics.assignment import BUCKETS


def has_switched(turn: Turn) -> bool:
    """Whether the candidate is the stable revision by now."""
    return turn.deployment.stable == turn.rollout.candidate


def switch(turn: Turn, step: int, code: str, reason: str, *, keep: bool) -> None:
    """The candidate becomes the stable revision in one route version; with `keep` the old one stays warm."""
    turn.change(mechanics.complete(turn.deployment, turn.around.used, keep=keep))
    turn.open_span(step, BUCKETS)
    turn.move("promoting", code, reason)


def watch(turn: Turn) -> None:
    """Over once the window has passed without a failed judgement; without a request nothing was judged."""
    rollout, evidence = turn.rollout, turn.evidence
    length = rollout.window_s
    if length:
        ends, known = rollout.step_ends_at, evidence.closed_until
        if ends is None or known is None or known < ends:
            return
        if not evidence.requests:
            turn.pause(
                "no_data",
                f"{rollout.candidate} got no request in the {length:g} s after the switch; it goes on when there is "
                "traffic",
            )
            return
    words = f"{length:g} s after the switch without a failed judgement" if length else "every gateway follows"
    finish(turn, "completed", f"{rollout.candidate} is the stable revision: {words}")


def finish(turn: Turn, code: str, reason: str) -> None:
    """The old revision goes."""
    turn.change(mechanics.release_standby(turn.deployment, turn.around.used))
    turn.end("succeeded", code, reason)


def finish_by_user(turn: Turn) -> None:
    who = turn.around.actor
    finish(turn, "by_user", f"completed by {who} before the rollback window was over")


def take_back(turn: Turn, reason: str, percent: float) -> None:
    """To the revision that is kept warm; before the switch, from the candidate."""
    if has_switched(turn):
        turn.change(mechanics.switch_back(turn.deployment, reason))
    else:
        common.take_back(turn, reason, percent)
