"""Every SELECT. Works on the database (each statement by itself) and inside a transaction alike."""

# ruff: noqa: S608 - the only names put into SQL are our own constants

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from phantom_pipelines.domain.execution import Execution
from phantom_pipelines.domain.pipeline import Pipeline
from phantom_pipelines.domain.suites import Suite
from phantom_pipelines.domain.values import Due, Json, Listed, LogLine, Page
from phantom_pipelines.store import rows
from phantom_pipelines.store.rows import Row
from phantom_platform.postgres.answers import AnswerReads

_FROM_THE_NEWEST = 2**63 - 1
# Of one stage; the newest are shown.
LOG_LINES_SHOWN = 1000


class Reads(AnswerReads):
    """Reads of one workspace each, but for `due` and `contexts_since`."""

    async def pipeline(self, workspace: str, name: str) -> Pipeline | None:
        """By id or by name."""
        sql = f"""
            SELECT {rows.PIPELINE} FROM pipelines WHERE workspace = $1 AND (pipeline_id = $2 OR name = $2)
            ORDER BY pipeline_id = $2 DESC LIMIT 1"""
        row = await self._sql.fetchrow(sql, workspace, name)
        return None if row is None else rows.to_pipeline(row)

    async def pipelines(self, workspace: str, page: Page) -> Listed[Pipeline]:
        sql = f"""
            SELECT {rows.PIPELINE} FROM pipelines WHERE workspace = $1 AND place < $2
            ORDER BY place DESC LIMIT $3"""
        found, last = await self._page(sql, workspace, page)
        return Listed([rows.to_pipeline(each) for each in found], last)

    async def execution(self, workspace: str, execution_id: str) -> Execution | None:
        sql = f"SELECT {rows.EXECUTION} FROM executions WHERE workspace = $1 AND execution_id = $2"
        row = await self._sql.fetchrow(sql, workspace, execution_id)
        return None if row is None else (await self._whole(workspace, [row]))[0]

    async def executions(self, workspace: str, page: Page, pipeline_id: str) -> Listed[Execution]:
        """Newest first; of one pipeline, or of all where it is empty."""
        sql = f"""
            SELECT {rows.EXECUTION} FROM executions
            WHERE workspace = $1 AND place < $2 AND ($4 = '' OR pipeline_id = $4)
            ORDER BY place DESC LIMIT $3"""
        found, last = await self._page(sql, workspace, page, pipeline_id)
        return Listed(await self._whole(workspace, found), last)

    async def due(self, now: datetime, limit: int) -> list[Due]:
        """Executions of any workspace for which there is something to do, oldest first."""
        sql = """
            SELECT workspace, execution_id, phase = 'cancelling' AS is_cancelling FROM executions
            WHERE ended_at IS NULL AND (waits_until IS NULL OR waits_until <= $1)
            ORDER BY place LIMIT $2"""
        return [Due(**each) for each in await self._sql.fetch(sql, now, limit)]

    async def checks(self, workspace: str, execution_id: str, stage: str) -> dict[str, Json]:
        sql = """
            SELECT name, answer::text AS answer FROM checks
            WHERE workspace = $1 AND execution_id = $2 AND stage = $3 ORDER BY finished_at, name"""
        found = await self._sql.fetch(sql, workspace, execution_id, stage)
        return {each["name"]: json.loads(each["answer"]) for each in found}

    async def contexts_since(self, ended: datetime) -> set[str]:
        """Of any workspace: digests of contexts that live executions have made, and those that ended after that."""
        sql = """
            SELECT DISTINCT answer ->> 'context_digest' AS digest
            FROM checks JOIN executions USING (workspace, execution_id)
            WHERE answer ? 'context_digest' AND (ended_at IS NULL OR ended_at >= $1)"""
        return {each["digest"] for each in await self._sql.fetch(sql, ended)}

    async def log_lines(self, workspace: str, execution_id: str) -> dict[str, list[LogLine]]:
        """Stage → its newest lines, in order."""
        sql = """
            SELECT stage, at, level, text FROM (
                SELECT *, row_number() OVER (PARTITION BY stage ORDER BY id DESC) AS age FROM log_lines
                WHERE workspace = $1 AND execution_id = $2) numbered
            WHERE age <= $3 ORDER BY id"""
        found: dict[str, list[LogLine]] = {}
        for row in await self._sql.fetch(sql, workspace, execution_id, LOG_LINES_SHOWN):
            found.setdefault(row["stage"], []).append(rows.to_line(row))
        return found

    async def suites_named(self, workspace: str, names: Sequence[str]) -> list[Suite]:
        sql = f"SELECT {rows.SUITE} FROM test_suites WHERE workspace = $1 AND name = ANY($2)"
        return [rows.to_suite(each) for each in await self._sql.fetch(sql, workspace, list(names))]

    async def suites(self, workspace: str, page: Page) -> Listed[Suite]:
        sql = f"""
            SELECT {rows.SUITE} FROM test_suites WHERE workspace = $1 AND place < $2
            ORDER BY place DESC LIMIT $3"""
        found, last = await self._page(sql, workspace, page)
        return Listed([rows.to_suite(each) for each in found], last)

    async def _whole(self, workspace: str, found: Sequence[Row]) -> list[Execution]:
        """Executions with their stages."""
        sql = f"""
            SELECT {rows.STAGE} FROM stages WHERE workspace = $1 AND execution_id = ANY($2)
            ORDER BY execution_id, number"""
        stages: dict[str, list[Row]] = {each["execution_id"]: [] for each in found}
        for row in await self._sql.fetch(sql, workspace, list(stages)):
            stages[row["execution_id"]].append(row)
        return [rows.to_execution(each, stages[each["execution_id"]]) for each in found]

    async def _page(
        self, sql: str, workspace: str, page: Page, *filters: object
    ) -> tuple[list[Row], int | None]:
        """The page's rows, and the place of the last one where more follow."""
        before = _FROM_THE_NEWEST if page.before is None else page.before
        found = list(await self._sql.fetch(sql, workspace, before, page.size + 1, *filters))
        more = len(found) > page.size
        return found[: page.size], found[page.size - 1]["place"] if more else None
