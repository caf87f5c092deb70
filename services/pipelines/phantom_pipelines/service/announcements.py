"""Saving an execution and telling what changed, in one transaction."""

from __future__ import annotations

from typing import Any

from phantom_contracts.events import pipelines as events
from phantom_pipelines.domain.execution import ITSELF, Approval, Execution, StageState
from phantom_pipelines.service.ports import Work


async def save(tx: Work, before: Execution, after: Execution, *, actor: str = ITSELF) -> None:
    """Write what differs, and announce each phase that changed: stages first, then the execution's own."""
    if after == before:
        return
    await tx.save_execution(before, after)
    for old, new in zip(before.stages, after.stages, strict=True):
        await _tell_stage(tx, after, old, new, actor)
    if before.phase != after.phase:
        event = events.ExecutionPhaseChanged(
            **_about(after, actor, after.reason_code, after.reason),
            from_phase=before.phase.value,
            to_phase=after.phase.value,
        )
        await tx.announce(after, event)


async def _tell_stage(tx: Work, execution: Execution, old: StageState, new: StageState, actor: str) -> None:
    decided = new.approval
    if decided is not None and _is_decided(decided) and not (old.approval and _is_decided(old.approval)):
        await tx.announce(
            execution,
            events.ApprovalDecided(
                **_about(execution, decided.decided_by, "", decided.comment),
                stage=new.name,
                decision=decided.state.value,
            ),
        )
    if old.phase != new.phase:
        await tx.announce(
            execution,
            events.StagePhaseChanged(
                **_about(execution, actor, new.reason_code, new.reason),
                stage=new.name,
                stage_type=new.type,
                from_phase=old.phase.value,
                to_phase=new.phase.value,
                duration_s=new.duration_s,
            ),
        )


def _is_decided(approval: Approval) -> bool:
    return approval.decided_at is not None


def _about(execution: Execution, actor: str, reason_code: str, reason: str) -> dict[str, Any]:
    return {
        "workspace": execution.workspace,
        "execution_id": execution.execution_id,
        "pipeline_id": execution.pipeline_id,
        "model_id": execution.model.model_id,
        "model_version": execution.model.version,
        "actor": actor,
        "reason": reason[:2000],
        "reason_code": reason_code,
    }
