"""Every INSERT, UPDATE and DELETE, inside one transaction."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from phantom_contracts import topics
from phantom_contracts.events.base import Event
from phantom_pipelines.domain.execution import Execution
from phantom_pipelines.domain.pipeline import Pipeline
from phantom_pipelines.domain.suites import Suite
from phantom_pipelines.domain.values import Attempt, Json
from phantom_pipelines.store import rows
from phantom_pipelines.store.reads import Reads
from phantom_platform.postgres.answers import AnswerWrites


class Writes(Reads, AnswerWrites):
    """One transaction of the service: its tables, and the outbox."""

    # -- announcements ---------------------------------------------------------

    async def announce(self, execution: Execution, event: Event) -> None:
        """Published iff this transaction commits, as the execution's next event."""
        sql = """
            UPDATE executions SET events = events + 1 WHERE workspace = $1 AND execution_id = $2
            RETURNING events"""
        number = await self._tx.fetchval(sql, execution.workspace, execution.execution_id)
        key = f"{execution.workspace}/{execution.execution_id}"
        self._tx.outbox.add(topics.PIPELINE_EVENTS, key, event, version=number)

    # -- pipelines and suites --------------------------------------------------

    async def add_pipeline(self, workspace: str, pipeline: Pipeline) -> bool:
        """False where one of that name exists."""
        sql = """
            INSERT INTO pipelines (workspace, pipeline_id, name, description, stages, version, created_at, created_by)
            VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8) ON CONFLICT DO NOTHING"""
        done = await self._tx.execute(
            sql,
            workspace,
            pipeline.pipeline_id,
            pipeline.name,
            pipeline.description,
            rows.from_stages(pipeline),
            pipeline.version,
            pipeline.created_at,
            pipeline.created_by,
        )
        return done == "INSERT 0 1"

    async def lock_pipeline(self, workspace: str, name: str) -> Pipeline | None:
        """By id or name; ours until the end of the transaction."""
        lock = "SELECT 1 FROM pipelines WHERE workspace = $1 AND (pipeline_id = $2 OR name = $2) FOR UPDATE"
        # A statement of its own: the read must see what the transaction that was waited for has committed.
        if not await self._tx.fetch(lock, workspace, name):
            return None
        return await self.pipeline(workspace, name)

    async def save_pipeline(self, workspace: str, pipeline: Pipeline) -> None:
        sql = """
            UPDATE pipelines SET stages = $3::text::jsonb, version = $4 WHERE workspace = $1 AND pipeline_id = $2"""
        stages = rows.from_stages(pipeline)
        await self._tx.execute(sql, workspace, pipeline.pipeline_id, stages, pipeline.version)

    async def add_suite(self, workspace: str, suite: Suite) -> bool:
        """False where one of that name exists."""
        sql = """
            INSERT INTO test_suites (workspace, name, content, created_at, created_by)
            VALUES ($1, $2, $3::text::jsonb, $4, $5) ON CONFLICT DO NOTHING"""
        values = (suite.name, rows.from_suite(suite), suite.created_at, suite.created_by)
        return await self._tx.execute(sql, workspace, *values) == "INSERT 0 1"

    # -- executions ------------------------------------------------------------

    async def add_execution(self, execution: Execution) -> None:
        sql = """
            INSERT INTO executions (workspace, execution_id, pipeline_id, pipeline_name, model, trigger, phase,
                reason_code, reason, waits_until, created_at, created_by, ended_at)
            VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9, $10, $11, $12, $13)"""
        await self._tx.execute(
            sql,
            execution.workspace,
            execution.execution_id,
            execution.pipeline_id,
            execution.pipeline_name,
            rows.dumps(asdict(execution.model)),
            execution.trigger,
            execution.phase.value,
            execution.reason_code,
            execution.reason,
            execution.waits_until,
            execution.created_at,
            execution.created_by,
            execution.ended_at,
        )
        sql = """
            INSERT INTO stages (workspace, execution_id, number, name, type, config, phase, reason_code, reason,
                started_at, ended_at, result, attempts, progress, approval)
            VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10, $11, $12::text::jsonb, $13, $14,
                $15::text::jsonb)"""
        key = (execution.workspace, execution.execution_id)
        stages = [
            (*key, number, each.name, each.type, rows.dumps(each.config), *rows.from_stage(each))
            for number, each in enumerate(execution.stages)
        ]
        await self._tx.executemany(sql, stages)

    async def lock_execution(self, workspace: str, execution_id: str) -> Execution | None:
        """Ours until the end of the transaction."""
        lock = "SELECT 1 FROM executions WHERE workspace = $1 AND execution_id = $2 FOR UPDATE"
        if await self._tx.fetchval(lock, workspace, execution_id) is None:
            return None
        return await self.execution(workspace, execution_id)

    async def save_execution(self, before: Execution, after: Execution) -> None:
        """Write what differs."""
        sql = """
            UPDATE executions SET phase = $3, reason_code = $4, reason = $5, waits_until = $6, ended_at = $7
            WHERE workspace = $1 AND execution_id = $2"""
        key = (after.workspace, after.execution_id)
        values = (after.phase.value, after.reason_code, after.reason, after.waits_until, after.ended_at)
        await self._tx.execute(sql, *key, *values)
        sql = """
            UPDATE stages SET phase = $4, reason_code = $5, reason = $6, started_at = $7, ended_at = $8,
                result = $9::text::jsonb, attempts = $10, progress = $11, approval = $12::text::jsonb
            WHERE workspace = $1 AND execution_id = $2 AND name = $3"""
        changed = [new for old, new in zip(before.stages, after.stages, strict=True) if old != new]
        await self._tx.executemany(sql, [(*key, each.name, *rows.from_stage(each)) for each in changed])

    async def delete_executions(self, ended_before: datetime, limit: int) -> int:
        """The oldest of any workspace, with their stages, checks and lines. How many."""
        sql = """
            SELECT workspace, execution_id FROM executions WHERE ended_at < $1
            ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED"""
        found = await self._tx.fetch(sql, ended_before, limit)
        keys = ([each["workspace"] for each in found], [each["execution_id"] for each in found])
        for table in ("log_lines", "checks", "stages", "executions"):
            sql = f"""
                DELETE FROM {table} WHERE (workspace, execution_id) IN
                (SELECT * FROM unnest($1::text[], $2::text[]))"""  # noqa: S608  # our own constants
            await self._tx.execute(sql, *keys)
        return len(found)

    # -- what a running stage leaves behind ------------------------------------

    async def keep_check(self, attempt: Attempt, name: str, answer: Json) -> bool:
        """False where this attempt is not the stage's newest any more, or the stage has ended."""
        sql = f"""
            INSERT INTO checks (workspace, execution_id, stage, name, answer, finished_at)
            SELECT $1, $2, $3, $5, $6::text::jsonb, $7 {_IF_NEWEST}"""
        done = await self._tx.execute(sql, *attempt.key, name, rows.dumps(answer), self.now)
        return done == "INSERT 0 1"

    async def add_line(self, attempt: Attempt, level: str, text: str, once: str) -> None:
        """Nothing where the line is there already, or the attempt is over."""
        sql = f"""
            INSERT INTO log_lines (workspace, execution_id, stage, at, level, text, once)
            SELECT $1, $2, $3, $5, $6, $7, $8 {_IF_NEWEST} ON CONFLICT DO NOTHING"""
        await self._tx.execute(sql, *attempt.key, self.now, level, text, once or None)

    async def set_progress(self, attempt: Attempt, share: float) -> None:
        """Never back."""
        sql = """
            UPDATE stages SET progress = greatest(progress, least($5, 0.99))
            WHERE workspace = $1 AND execution_id = $2 AND name = $3 AND attempts = $4 AND phase = 'running'"""
        await self._tx.execute(sql, *attempt.key, share)


# FOR SHARE waits for whoever is ending the stage or taking it over.
_IF_NEWEST = """
    FROM stages WHERE workspace = $1 AND execution_id = $2 AND name = $3 AND attempts = $4 AND phase = 'running'
    FOR SHARE"""
