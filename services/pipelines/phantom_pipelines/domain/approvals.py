"""Who may decide about a stage, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from phantom_pipelines.domain.execution import Approval, Decision, Execution, StagePhase, StageState, advance
from phantom_platform.errors import Forbidden, NotFound, Refused


def decide(
    execution: Execution, name: str, *, approve: bool, actor: str, comment: str, now: datetime
) -> Execution:
    """The execution after the decision, which takes effect at once. An empty name: the stage that waits.

    `NotFound` `stage_not_found`; `Refused` `not_waiting_for_approval`, `already_decided`, `approval_expired`;
    `Forbidden` `not_an_approver`, `requester_cannot_approve`.
    """
    stage = _asked(execution, name)
    approval = stage.approval
    if approval is None:
        raise _not_waiting(f"stage {stage.name} is {stage.phase}")
    _check_decider(execution, stage, approval, actor)
    _check_open(stage, approval, now)
    decision = Decision.APPROVED if approve else Decision.REJECTED
    decided = replace(approval, state=decision, decided_by=actor, decided_at=now, comment=comment)
    return advance(execution.with_stage(replace(stage, approval=decided)), now)


def _asked(execution: Execution, name: str) -> StageState:
    """The stage that is meant: by name, else the one that waits, else the one that was decided last."""
    if name:
        stage = execution.stage(name)
        if stage is None:
            raise NotFound(
                f"execution {execution.execution_id} has no stage {name}; it has "
                f"{', '.join(each.name for each in execution.stages)}",
                code="stage_not_found",
                stage=name,
            )
        return stage
    waiting = [each for each in execution.stages if each.phase == StagePhase.WAITING]
    asked = waiting or [each for each in reversed(execution.stages) if each.approval is not None]
    if not asked:
        raise _not_waiting(f"no stage waits for one, and the execution is {execution.phase}")
    return asked[0]


def _check_decider(execution: Execution, stage: StageState, approval: Approval, actor: str) -> None:
    if actor == execution.created_by:
        raise Forbidden(
            "you asked for this execution, so somebody else decides about it", code="requester_cannot_approve"
        )
    if approval.approvers and actor not in approval.approvers:
        raise Forbidden(
            f"stage {stage.name} is decided by {', '.join(approval.approvers)}",
            code="not_an_approver",
            approvers=", ".join(approval.approvers),
        )


def _check_open(stage: StageState, approval: Approval, now: datetime) -> None:
    if approval.state in (Decision.APPROVED, Decision.REJECTED):
        raise Refused(
            f"stage {stage.name} was {approval.state} by {approval.decided_by} at {approval.decided_at}",
            code="already_decided",
            decided_by=approval.decided_by,
            decision=approval.state.value,
        )
    if approval.state == Decision.EXPIRED or now >= approval.expires_at:
        raise Refused(
            f"the approval of stage {stage.name} expired at {approval.expires_at}; execute the pipeline again",
            code="approval_expired",
        )
    if stage.phase != StagePhase.WAITING:  # cancelled while it waited
        raise _not_waiting(f"stage {stage.name} is {stage.phase}")


def _not_waiting(why: str) -> Refused:
    return Refused(f"there is no approval to decide about: {why}", code="not_waiting_for_approval")
