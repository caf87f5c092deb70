"""What the executor does to executions: each method is one transaction, and safe to repeat after a crash."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from phantom_pipelines.domain import execution as executions
from phantom_pipelines.domain.execution import Execution
from phantom_pipelines.domain.values import Attempt, Due, Json
from phantom_pipelines.service import find
from phantom_pipelines.service.announcements import save
from phantom_pipelines.service.ports import Store
from phantom_platform.errors import Conflict

MOST_DUE = 1000


@dataclass(frozen=True)
class Job:
    """What to do now: `run` or `undo`, under this attempt; `checks` are finished already."""

    kind: str
    attempt: Attempt
    execution: Execution
    checks: dict[str, Json]


@dataclass(frozen=True)
class Ending:
    """How a stage ended."""

    ok: bool
    reason_code: str
    reason: str
    result: Json


class Progression:
    """Use cases of the executor."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def due(self, now: datetime) -> list[Due]:
        return await self._store.reads.due(now, MOST_DUE)

    async def step(self, workspace: str, execution_id: str) -> Job | None:
        """The next job, begun; None: it has ended, or waits for somebody."""
        async with self._store.transaction() as tx:
            before = await find.locked_execution(tx, workspace, execution_id)
            after = executions.advance(before, tx.now)
            action = executions.action(after)
            if action is not None:
                after = executions.take(after, action.stage)
            await save(tx, before, after)
            if action is None:
                return None
            stage = after.stage(action.stage)
            assert stage is not None  # it was just taken
            attempt = Attempt(workspace, execution_id, stage.name, stage.attempts)
            checks = await tx.checks(workspace, execution_id, stage.name)
            return Job(action.kind, attempt, after, checks)

    async def finish(self, attempt: Attempt, ending: Ending) -> Execution:
        """`Conflict` `stale_attempt` where somebody else has taken the stage over."""
        async with self._store.transaction() as tx:
            before = await find.locked_execution(tx, attempt.workspace, attempt.execution_id)
            after = executions.finish(
                before,
                attempt.stage,
                attempt.number,
                ok=ending.ok,
                reason_code=ending.reason_code,
                reason=ending.reason,
                result=ending.result,
                now=tx.now,
            )
            await save(tx, before, after)
            return after

    async def undone(self, attempt: Attempt, reason: str) -> Execution:
        """`Conflict` `stale_attempt` where somebody else has taken the stage over."""
        async with self._store.transaction() as tx:
            before = await find.locked_execution(tx, attempt.workspace, attempt.execution_id)
            after = executions.undone(before, attempt.stage, attempt.number, reason, tx.now)
            await save(tx, before, after)
            return after

    async def keep_check(self, attempt: Attempt, name: str, answer: Json) -> None:
        """`Conflict` `stale_attempt` where somebody else has taken the stage over."""
        async with self._store.transaction() as tx:
            if not await tx.keep_check(attempt, name, answer):
                raise Conflict(
                    f"attempt {attempt.number} at stage {attempt.stage} is over", code="stale_attempt"
                )

    async def add_line(self, attempt: Attempt, text: str, level: str, once: str) -> None:
        async with self._store.transaction() as tx:
            await tx.add_line(attempt, level, text, once)

    async def set_progress(self, attempt: Attempt, share: float) -> None:
        async with self._store.transaction() as tx:
            await tx.set_progress(attempt, share)

    async def forget_answers(self, kept: timedelta) -> None:
        """Request ids older than `kept` are new again."""
        async with self._store.transaction() as tx:
            await tx.forget_answers(tx.now - kept)

    async def forget_executions(self, kept: timedelta, limit: int) -> int:
        """Delete some of those that ended longer ago, with all that was kept of them. How many."""
        async with self._store.transaction() as tx:
            return await tx.delete_executions(tx.now - kept, limit)

    async def contexts_since(self, ended: datetime) -> set[str]:
        """Digests of the build contexts of executions that have not ended, or ended after that."""
        return await self._store.reads.contexts_since(ended)
