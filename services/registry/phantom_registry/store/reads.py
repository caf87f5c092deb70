"""Every SELECT. Works on the database (each statement by itself) and inside a transaction alike."""

# ruff: noqa: S608 - the only names put into SQL are our own constants

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from phantom_platform.postgres.answers import AnswerReads
from phantom_registry.domain.approvals import Promotion, State
from phantom_registry.domain.lineage import Edge, Kind, Lineage, Node
from phantom_registry.domain.stages import Stage
from phantom_registry.domain.values import Artifact, Dataset, Listed, Model, Page, Version
from phantom_registry.store import rows
from phantom_registry.store.rows import Row

T = TypeVar("T")
_FROM_THE_NEWEST = 2**63 - 1


class Reads(AnswerReads):
    """Reads of one workspace each."""

    async def model(self, workspace: str, model_id: str) -> Model | None:
        sql = f"SELECT {rows.MODEL} FROM models m WHERE m.workspace = $1 AND m.model_id = $2"
        return _one(rows.to_model, await self._sql.fetchrow(sql, workspace, model_id))

    async def models(
        self, workspace: str, page: Page, text: str, tags: Sequence[str], stage: Stage | None
    ) -> Listed[Model]:
        sql = f"""
            SELECT {rows.MODEL} FROM models m
            WHERE m.workspace = $1 AND m.place < $2
              AND ($4 = '' OR strpos(lower(m.model_id || ' ' || m.description), lower($4)) > 0)
              AND m.tags @> $5::text[]
              AND ($6 = '' OR EXISTS (SELECT FROM versions v WHERE v.workspace = m.workspace
                                      AND v.model_id = m.model_id AND v.stage = $6))
            ORDER BY m.place DESC LIMIT $3"""
        wanted = stage.value if stage else ""
        return await self._page(rows.to_model, sql, workspace, page, text, list(tags), wanted)

    async def version(self, workspace: str, model_id: str, version: str) -> Version | None:
        sql = f"""
            SELECT {rows.VERSION} FROM {rows.VERSIONS}
            WHERE v.workspace = $1 AND v.model_id = $2 AND v.version = $3"""
        return _one(rows.to_version, await self._sql.fetchrow(sql, workspace, model_id, version))

    async def newest_version(self, workspace: str, model_id: str) -> Version | None:
        """By creation."""
        sql = f"""
            SELECT {rows.VERSION} FROM {rows.VERSIONS}
            WHERE v.workspace = $1 AND v.model_id = $2 ORDER BY v.place DESC LIMIT 1"""
        return _one(rows.to_version, await self._sql.fetchrow(sql, workspace, model_id))

    async def served_version(self, workspace: str, model_id: str) -> Version | None:
        """The one promoted to production last, else the newest."""
        sql = f"""
            SELECT {rows.VERSION} FROM {rows.VERSIONS}
            WHERE v.workspace = $1 AND v.model_id = $2
            ORDER BY v.stage = 'production' DESC,
                     CASE WHEN v.stage = 'production' THEN v.stage_place ELSE v.place END DESC
            LIMIT 1"""
        return _one(rows.to_version, await self._sql.fetchrow(sql, workspace, model_id))

    async def versions(self, workspace: str, page: Page, model_id: str) -> Listed[Version]:
        sql = f"""
            SELECT {rows.VERSION} FROM {rows.VERSIONS}
            WHERE v.workspace = $1 AND v.place < $2 AND v.model_id = $4 ORDER BY v.place DESC LIMIT $3"""
        return await self._page(rows.to_version, sql, workspace, page, model_id)

    async def artifact(self, workspace: str, digest: str) -> Artifact | None:
        sql = "SELECT digest, size_bytes FROM artifacts WHERE workspace = $1 AND digest = $2"
        return _one(lambda row: Artifact(**row), await self._sql.fetchrow(sql, workspace, digest))

    async def promotion(self, workspace: str, promotion_id: str) -> Promotion | None:
        sql = f"SELECT {rows.PROMOTION} FROM promotions WHERE workspace = $1 AND promotion_id = $2"
        return _one(rows.to_promotion, await self._sql.fetchrow(sql, workspace, promotion_id))

    async def promotions(
        self, workspace: str, page: Page, state: State | None, model_id: str, now: datetime
    ) -> Listed[Promotion]:
        """By their state at `now`: overdue ones count as expired, written down or not."""
        sql = f"""
            SELECT {rows.PROMOTION} FROM promotions
            WHERE workspace = $1 AND place < $2 AND ($5 = '' OR model_id = $5)
              AND ($4 = '' OR $4 = CASE WHEN state = 'pending' AND expires_at <= $6 THEN 'expired' ELSE state END)
            ORDER BY place DESC LIMIT $3"""
        wanted = state.value if state else ""
        return await self._page(rows.to_promotion, sql, workspace, page, wanted, model_id, now)

    async def dataset(self, workspace: str, name: str, version: str) -> Dataset | None:
        """The newest by registration where no version is named."""
        sql = f"""
            SELECT {rows.DATASET} FROM datasets
            WHERE workspace = $1 AND name = $2 AND ($3 = '' OR version = $3) ORDER BY place DESC LIMIT 1"""
        return _one(rows.to_dataset, await self._sql.fetchrow(sql, workspace, name, version))

    async def datasets(self, workspace: str, page: Page) -> Listed[Dataset]:
        sql = f"""
            SELECT {rows.DATASET} FROM datasets
            WHERE workspace = $1 AND place < $2 ORDER BY place DESC LIMIT $3"""
        return await self._page(rows.to_dataset, sql, workspace, page)

    async def lineage(self, workspace: str, model_id: str, version: str) -> Lineage | None:
        """Of the newest version that has one, where none is named."""
        sql = f"""
            SELECT {", ".join(f"l.{each.strip()}" for each in rows.LINEAGE.split(","))} FROM lineages l
            JOIN versions v USING (workspace, model_id, version)
            WHERE l.workspace = $1 AND l.model_id = $2 AND ($3 = '' OR l.version = $3)
            ORDER BY v.place DESC LIMIT 1"""
        return _one(rows.to_lineage, await self._sql.fetchrow(sql, workspace, model_id, version))

    async def nodes(self, workspace: str, kind: Kind, name: str, version: str) -> list[Node]:
        """The nodes of that name, of any version where none is given: registered, or named by some lineage."""
        sql = """
            SELECT $2 AS node_kind, $3 AS node_name, found.version AS node_version FROM (
                SELECT version FROM versions WHERE $2 = 'model_version' AND workspace = $1 AND model_id = $3
                UNION SELECT version FROM datasets WHERE $2 = 'dataset' AND workspace = $1 AND name = $3
                UNION SELECT made_version FROM lineage_edges
                      WHERE workspace = $1 AND made_kind = $2 AND made_name = $3
                UNION SELECT source_version FROM lineage_edges
                      WHERE workspace = $1 AND source_kind = $2 AND source_name = $3
            ) found WHERE $4 = '' OR found.version = $4"""
        found = await self._sql.fetch(sql, workspace, kind.value, name, version)
        return [rows.to_node(row, "node") for row in found]

    async def reachable(self, workspace: str, starts: Sequence[Node], *, downstream: bool) -> list[Edge]:
        """Every edge that can be walked from `starts` in that direction."""
        here, there = ("source", "made") if downstream else ("made", "source")
        # UNION drops what was walked before, so this ends whatever the graph looks like.
        sql = f"""
            WITH RECURSIVE walked AS (
                SELECT e.* FROM lineage_edges e
                JOIN unnest($2::text[], $3::text[], $4::text[]) AS start (kind, name, version)
                  ON e.{here}_kind = start.kind AND e.{here}_name = start.name
                 AND e.{here}_version = start.version
                WHERE e.workspace = $1
                UNION
                SELECT e.* FROM lineage_edges e
                JOIN walked w ON e.workspace = w.workspace AND e.{here}_kind = w.{there}_kind
                 AND e.{here}_name = w.{there}_name AND e.{here}_version = w.{there}_version
            ) SELECT * FROM walked"""
        columns = [[n.kind.value for n in starts], [n.name for n in starts], [n.version for n in starts]]
        found = await self._sql.fetch(sql, workspace, *columns)
        return [Edge(rows.to_node(row, "made"), rows.to_node(row, "source")) for row in found]

    async def _page(
        self, to_value: Callable[[Row], T], sql: str, workspace: str, page: Page, *filters: object
    ) -> Listed[T]:
        before = _FROM_THE_NEWEST if page.before is None else page.before
        # One more than wanted tells whether more follow.
        found = await self._sql.fetch(sql, workspace, before, page.size + 1, *filters)
        shown = found[: page.size]
        last = shown[-1]["place"] if len(found) > page.size else None
        return Listed([to_value(row) for row in shown], last)


def _one(to_value: Callable[[Row], T], row: Row | None) -> T | None:
    return None if row is None else to_value(row)
