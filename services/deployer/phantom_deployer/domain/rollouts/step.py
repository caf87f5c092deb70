"""One look at one rollout: from where it stands and what is known, to where it goes.

Safe to repeat and to lose: everything a look decides is in what it returns, and the next one begins from there. What
differs between strategies is in `strategies`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from phantom_deployer.domain.deployment import Deployment
from phantom_deployer.domain.rollouts.model import SELF_ENDING, UNDECIDED, WITH_TRAFFIC, Rollout, State
from phantom_deployer.domain.rollouts.strategies import Strategy, of
from phantom_deployer.domain.rollouts.turn import Around, Turn


def look(rollout: Rollout, deployment: Deployment, around: Around) -> Turn:
    """At most one thing is done, so that each has its own route version and its own transition."""
    turn = Turn(rollout, deployment, around)
    if not rollout.is_live:
        return turn
    # A rollback may take the candidate away, and has to be acknowledged all the same.
    if turn.candidate is None and rollout.state != "rolling_back":
        reason = f"{rollout.candidate} is no candidate of {deployment.id} any more"
        turn.end("failed", "candidate_gone", reason)
        return turn
    _take_note(turn)
    strategy = of(rollout.spec.strategy)
    if strategy.acts_at_once and rollout.state in WITH_TRAFFIC and _has_failed(turn):
        strategy.fail(turn)
    else:
        _STATES[rollout.state](turn, strategy)
    return turn


def _take_note(turn: Turn) -> None:
    evidence = turn.evidence
    turn.rollout = replace(
        turn.rollout,
        verdict=evidence.verdict or turn.rollout.verdict,
        figures=evidence.figures if evidence.figures.requests else turn.rollout.figures,
        shadow=evidence.shadow or turn.rollout.shadow,
    )


def _has_failed(turn: Turn) -> bool:
    """A failure acts once: a rollout that pauses on it waits for a person."""
    verdict = turn.evidence.verdict
    is_known = turn.rollout.state == "paused" and turn.rollout.reason_code == "criterion_failed"
    return verdict is not None and verdict.is_fail and not is_known


# -- before any traffic ----------------------------------------------------------------------------------------------


def _pending(turn: Turn, strategy: Strategy) -> None:
    rollout, candidate = turn.rollout, turn.candidate
    assert candidate is not None  # `look` saw it
    if candidate.phase == "failed":
        turn.fail(
            candidate.error_code or "candidate_failed",
            f"{candidate.id} could not be started: {candidate.reason}",
        )
    elif not candidate.was_ready:
        _await_ready(turn)
    elif rollout.spec.replay is not None and not _is_replayed(turn):
        return
    elif rollout.spec.approval_required and not rollout.approved_by:
        who = f"one of {', '.join(rollout.spec.approvers)}" if rollout.spec.approvers else "an approver"
        turn.move(
            "waiting_for_approval", "approval_required", f"{candidate.id} is ready; {who} must approve it"
        )
    else:
        strategy.begin(turn)


def _await_ready(turn: Turn) -> None:
    """From its beginning on: a pause puts nothing off."""
    limit, rollout = turn.rollout.spec.ready_timeout_s, turn.rollout
    if turn.now - rollout.created_at < timedelta(seconds=limit):
        return
    replicas = turn.deployment.replicas_of(rollout.candidate)
    last = next((each.reason for each in replicas if each.reason), "")
    serving = len(turn.deployment.serving(rollout.candidate))
    reason = (
        f"{rollout.candidate} was not ready within {limit:g} s: {serving} of {len(replicas)} replicas serve"
    )
    turn.fail("candidate_not_ready", f"{reason}{'; ' if last else ''}{last}")


def _is_replayed(turn: Turn) -> bool:
    """Whether past requests were run through the candidate, and nothing is against it."""
    report, plan = turn.rollout.replay, turn.rollout.spec.replay
    if report is None:
        if turn.rollout.reason_code != "replaying" and plan is not None:
            turn.move(
                "pending", "replaying", f"the newest {plan.requests:,} requests are run through the candidate"
            )
        return False
    if report.verdict == "fail":
        turn.fail("replay_failed", report.reason, criterion="replay")
        return False
    is_open = report.verdict == "not_enough_data" and plan is not None and plan.has_limits
    return not is_open or _is_accepted(turn)


def _is_accepted(turn: Turn) -> bool:
    """Limits that could not be judged are for a person to pass over: whoever resumes has."""
    rollout = turn.rollout
    if rollout.notes.get("replay"):
        return True
    turn.rollout = replace(rollout, notes={**rollout.notes, "replay": "seen"})
    assert rollout.replay is not None  # it has been judged
    turn.pause("replay_not_judged", f"{rollout.replay.reason}; resume to go on without it")
    return False


def _waiting_for_approval(turn: Turn, strategy: Strategy) -> None:
    limit, since = turn.rollout.spec.approval_timeout_s, turn.rollout.since
    if since is not None and turn.now - since >= timedelta(seconds=limit):
        turn.fail("approval_expired", f"nobody approved it within {limit:g} s")


# -- with traffic ----------------------------------------------------------------------------------------------------


def _running(turn: Turn, strategy: Strategy) -> None:
    span = turn.rollout.span
    if span is not None and span.started_at is None:
        if turn.around.waiting(turn.rollout.key, span.first_version) is None:
            turn.start_clock()
        return
    if turn.evidence.unavailable:
        turn.pause("metrics_unavailable", turn.evidence.unavailable)
        return
    strategy.advance(turn)
    _stop_holding(turn, strategy)


def _stop_holding(turn: Turn, strategy: Strategy) -> None:
    """What cannot be judged for long, is said: somebody may have to do something about it."""
    rollout = turn.rollout
    limit = timedelta(seconds=rollout.held_at_most_s)
    if turn.moves or rollout.state != "analysing" or _is_decided(turn, strategy):
        return
    if rollout.since is None or turn.now - rollout.since < limit:
        return
    code, words, verdict = rollout.reason_code, rollout.reason, turn.evidence.verdict
    if strategy.acts_at_once and verdict is not None and verdict.verdict in UNDECIDED:
        code, words = verdict.verdict, verdict.words
    turn.pause(
        code,
        f"not decided {limit.total_seconds():g} s after the step's end; it goes on once it passes: {words}",
    )


def _paused(turn: Turn, strategy: Strategy) -> None:
    rollout, evidence = turn.rollout, turn.evidence
    if rollout.reason_code not in SELF_ENDING or evidence.unavailable:
        return
    if rollout.reason_code in UNDECIDED:
        if _is_decided(turn, strategy):
            turn.go_on_as_it_was("decided", "what could not be judged passes by now")
    elif rollout.reason_code == "metrics_unavailable":
        turn.go_on("metrics_available", "what gateways served is known again; the step begins anew")
    elif evidence.last_traffic_at and rollout.since and evidence.last_traffic_at > rollout.since:
        turn.go_on("traffic", "the candidate has traffic again; the step begins anew")


def _is_decided(turn: Turn, strategy: Strategy) -> bool:
    """A failure has acted already; of a shadow, only the number of copies was waited for."""
    if not strategy.acts_at_once:
        return turn.evidence.requests >= turn.rollout.spec.criteria.minimum_requests
    return turn.evidence.verdict is not None and turn.evidence.verdict.verdict == "pass"


def _rolling_back(turn: Turn, strategy: Strategy) -> None:
    rollout = turn.rollout
    if turn.around.waiting(rollout.key, rollout.rollback_version) is not None:
        return
    assert rollout.rollback_at is not None  # as the state was entered
    took = (turn.now - rollout.rollback_at).total_seconds()
    left = turn.deployment.candidate_bp / 100
    reason = (
        f"{rollout.reason}; decided {rollout.rollback_at:%H:%M:%S.%f}, route {rollout.rollback_version}, acknowledged "
        f"by every gateway {turn.now:%H:%M:%S.%f} ({took:.1f} s later)"
    )
    stays = f"; {left:g} % stay on it" if left else ""
    turn.end("rolled_back", rollout.reason_code, reason + stays, criterion=rollout.fired)


_STATES: dict[State, Callable[[Turn, Strategy], None]] = {
    "pending": _pending,
    "waiting_for_approval": _waiting_for_approval,
    "progressing": _running,
    "analysing": _running,
    "promoting": _running,
    "paused": _paused,
    "rolling_back": _rolling_back,
}
