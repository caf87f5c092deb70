"""What callers may do to a rollout, and when not. Each takes a turn, or raises a named refusal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.deployment import Deployment, ModelVersion
from phantom_deployer.domain.rollouts.judging import QUALITY_MARGIN, comparable_outcome
from phantom_deployer.domain.rollouts.model import Rollout
from phantom_deployer.domain.rollouts.spec import RolloutSpec
from phantom_deployer.domain.rollouts.strategies import of
from phantom_deployer.domain.rollouts.strategies.strategy import roll_back as take_traffic_back
from phantom_deployer.domain.rollouts.turn import Around, Turn
from phantom_platform.errors import Forbidden, Invalid, Refused, Violation
from phantom_statistics.rollouts import requests_to_detect_doubling


@dataclass(frozen=True, slots=True)
class Begin:
    """A rollout to begin. `error_rate`: the stable revision's at present, None where unknown."""

    rollout_id: str
    model: ModelVersion
    spec: RolloutSpec
    is_vouched: bool
    entropy: str
    requester: str
    error_rate: float | None = None


def create(deployment: Deployment, asked: Begin, around: Around) -> Turn:
    """The version becomes the candidate, without traffic yet."""
    stable = deployment.stable_revision
    if deployment.is_deleting or stable is None or not stable.was_ready or stable.phase == "failed":
        raise Refused(
            f"{deployment.id} has no stable revision that serves; deploy {deployment.model_id} first, and wait until "
            "it is ready",
            code="stable_not_ready",
        )
    strategy = of(asked.spec.strategy)
    margin, maturity = _quality(asked, stable.model)
    doubling, warnings = _power(asked)
    rollout = Rollout(
        id=asked.rollout_id,
        workspace=deployment.workspace,
        deployment_id=deployment.id,
        environment=deployment.environment,
        model_id=asked.model.model_id,
        model_version=asked.model.version,
        stable_version=stable.model.version,
        candidate="",
        stable=stable.id,
        spec=asked.spec,
        created_by=around.actor,
        requester=asked.requester,
        created_at=around.now,
        steps=strategy.shares(asked.spec),
        maturity_s=maturity,
        quality_margin=margin,
        warnings=warnings,
        requests_to_detect_doubling=doubling,
    )
    turn = Turn(rollout, deployment, around)
    turn.change(
        mechanics.add_revision(
            deployment,
            asked.model,
            bp=0,
            vouched=asked.is_vouched,
            entropy=asked.entropy,
            used=around.used,
        )
    )
    turn.rollout = replace(rollout, candidate=turn.deployment.candidate)
    strategy.prepare(turn)
    beside = f"{turn.rollout.candidate} (version {asked.model.version}) starts beside {stable.id}"
    turn.move("pending", "created", f"{beside} (version {stable.model.version})")
    return turn


def _quality(asked: Begin, stable: ModelVersion) -> tuple[float | None, float | None]:
    """(margin, maturity in s), both None where quality is not compared."""
    wanted = asked.spec.criteria.quality_margin
    maturity, why_not = comparable_outcome(asked.model.model_schema, stable.model_schema)
    if wanted is not None and wanted < 0:
        return None, None
    if maturity is None and wanted is not None:
        problem = f"quality cannot be compared: {why_not}; leave it out"
        raise Invalid(code="invalid_rollout", violations=[Violation("spec.criteria.quality_margin", problem)])
    return (None, None) if maturity is None else (wanted or QUALITY_MARGIN, maturity)


def _power(asked: Begin) -> tuple[int, tuple[str, ...]]:
    """How many requests show a doubled error rate, and a warning where the rollout is content with fewer."""
    rate, minimum = asked.error_rate, asked.spec.criteria.minimum_requests
    if not rate or rate >= 1:
        return 0, ()
    needed = requests_to_detect_doubling(rate)
    if asked.spec.strategy != "canary" or not asked.spec.criteria.compare_errors or minimum >= needed:
        return needed, ()
    return needed, (
        f"minimum_requests {minimum:,} is below the {needed:,} that show a doubled error rate with 95 % at the "
        f"present {rate:.3%}: steps may pass before a worse version is seen to be worse",
    )


# -- of a rollout that goes on ---------------------------------------------------------------------------------------


def pause(turn: Turn) -> None:
    """Holds its share; also one that paused by itself, which then waits for a person."""
    _check_goes_on(turn)
    if turn.rollout.state == "paused" and turn.rollout.reason_code == "by_user":
        raise Refused(f"the rollout {turn.rollout.id} is paused already", code="rollout_paused")
    # It has no traffic to hold, and who may approve it has until a certain time.
    if turn.rollout.state == "waiting_for_approval":
        raise Refused(
            f"the rollout {turn.rollout.id} waits for an approval, and gets no traffic before; reject it, or leave it "
            "undecided",
            code="waiting_for_approval",
        )
    turn.pause("by_user", f"paused by {turn.around.actor}")


def resume(turn: Turn) -> None:
    _check_goes_on(turn)
    if turn.rollout.state != "paused":
        raise Refused(
            f"the rollout {turn.rollout.id} is {turn.rollout.state}, not paused", code="rollout_not_paused"
        )
    of(turn.rollout.spec.strategy).resume(turn)


def promote(turn: Turn, bp: int | None) -> None:
    """To that share, or (None) to the next step."""
    _check_goes_on(turn)
    rollout, candidate = turn.rollout, turn.candidate
    if rollout.state == "waiting_for_approval":
        raise Refused(
            f"the rollout {rollout.id} waits for an approval; it gets no traffic before",
            code="waiting_for_approval",
        )
    if rollout.step < 0 or candidate is None or not candidate.was_ready:
        raise Refused(
            f"{rollout.candidate} has no traffic yet: {rollout.reason}; wait until the rollout progresses",
            code="candidate_not_ready",
            candidate=rollout.candidate,
        )
    of(rollout.spec.strategy).promote(turn, bp)


def roll_back(turn: Turn, reason: str) -> None:
    """All traffic leaves the candidate."""
    _check_goes_on(turn)
    who = f"rolled back by {turn.around.actor}"
    take_traffic_back(of(turn.rollout.spec.strategy), turn, "by_user", f"{who}: {reason}" if reason else who)


def approve(turn: Turn, comment: str) -> None:
    """Lets the candidate have traffic."""
    _check_may_decide(turn)
    actor = turn.around.actor
    turn.rollout = replace(turn.rollout, approved_by=actor, approved_at=turn.now)
    turn.move("pending", "approved", f"approved by {actor}{': ' if comment else ''}{comment}")


def reject(turn: Turn, comment: str) -> None:
    """Ends it."""
    _check_may_decide(turn)
    actor = turn.around.actor
    turn.rollout = replace(turn.rollout, rejected_by=actor)
    turn.fail("rejected", f"rejected by {actor}{': ' if comment else ''}{comment}")


def supersede(turn: Turn, version: str) -> None:
    """Another rollout takes its place: traffic goes back, and the candidate goes."""
    reason = f"a rollout of version {version} takes its place"
    if turn.rollout.step >= 0 and turn.rollout.state != "rolling_back":
        of(turn.rollout.spec.strategy).take_back(turn, reason, 0)
    turn.remove(reason)
    turn.end("superseded", "superseded", reason)


def deployment_deleted(turn: Turn) -> None:
    """Nothing is left to roll out to."""
    turn.end("failed", "deployment_deleted", f"{turn.deployment.id} was deleted by {turn.around.actor}")


def _check_goes_on(turn: Turn) -> None:
    rollout = turn.rollout
    if not rollout.is_live or rollout.state == "rolling_back":
        raise Refused(
            f"the rollout {rollout.id} is {rollout.state}: {rollout.reason}; begin a new one",
            code="rollout_ended",
            state=rollout.state,
        )


def _check_may_decide(turn: Turn) -> None:
    rollout, actor = turn.rollout, turn.around.actor
    if rollout.approved_by:
        raise Refused(
            f"the rollout {rollout.id} was approved by {rollout.approved_by} already",
            code="already_approved",
            approved_by=rollout.approved_by,
        )
    is_waiting = rollout.state == "waiting_for_approval"
    limit = timedelta(seconds=rollout.spec.approval_timeout_s)
    if rollout.reason_code == "approval_expired" or (
        is_waiting and rollout.since is not None and turn.now - rollout.since >= limit
    ):
        raise Refused(
            f"the approval of {rollout.id} was due within {limit.total_seconds():g} s; begin a new rollout",
            code="approval_expired",
        )
    if not is_waiting:
        raise Refused(
            f"the rollout {rollout.id} waits for no approval: it is {rollout.state}, {rollout.reason}",
            code="not_waiting_for_approval",
            state=rollout.state,
        )
    if actor in (rollout.created_by, rollout.requester):
        raise Forbidden(
            f"{actor} asked for the rollout {rollout.id}, and nobody approves their own; ask someone else",
            code="requester_cannot_approve",
        )
    if rollout.spec.approvers and actor not in rollout.spec.approvers:
        raise Forbidden(
            f"{actor} is not an approver of {rollout.id}; these are: {', '.join(rollout.spec.approvers)}",
            code="not_an_approver",
        )
