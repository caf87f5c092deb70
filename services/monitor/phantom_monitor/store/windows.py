"""Windows and their totals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from phantom_monitor.domain.counts import WindowCounts, WindowKey
from phantom_monitor.values import StoredWindow
from phantom_platform.postgres import Database, Transaction

_KEY = "workspace, endpoint, revision, arm, decision, route_version, segment, start_s"
_ORDER = "start_s, revision, arm, decision, route_version, segment"
_TOTALS = ("requests", "answered", "attempts", "failed_attempts", "rejected_inputs", "fallbacks", "rows")


class PostgresWindows:
    """Windows and their totals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tx: Transaction, changes: Mapping[WindowKey, WindowCounts]) -> None:
        """Merge changes into their windows, locking them in key order, and into the totals."""
        keys = sorted(changes)
        stored = await self._lock(tx, keys)
        rows = []
        for key in keys:
            counts = stored.get(key) or WindowCounts()
            counts.merge(changes[key])
            rows.append((*key, orjson.dumps(counts.to_dict()).decode(), tx.now))
        await tx.executemany(
            f"""INSERT INTO windows ({_KEY}, counts, updated_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                ON CONFLICT ({_KEY}) DO UPDATE
                SET counts = EXCLUDED.counts, updated_at = EXCLUDED.updated_at, is_changed = true""",  # noqa: S608
            rows,
        )
        await self._add_totals(tx, changes)

    async def _lock(self, tx: Transaction, keys: Sequence[WindowKey]) -> dict[WindowKey, WindowCounts]:
        found = await tx.fetch(
            f"""SELECT {_KEY}, counts FROM windows
                WHERE ({_KEY}) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],
                    $5::text[], $6::bigint[], $7::text[], $8::bigint[]))
                ORDER BY {_KEY} FOR UPDATE""",  # noqa: S608
            *_columns(keys, 8),
        )
        return {_key(row): _counts(row) for row in found}

    async def _add_totals(self, tx: Transaction, changes: Mapping[WindowKey, WindowCounts]) -> None:
        sums: dict[tuple[str, ...], WindowCounts] = {}
        for key, counts in changes.items():
            sums.setdefault(key[:5], WindowCounts()).merge(counts)
        await tx.executemany(
            f"""INSERT INTO totals AS t (workspace, endpoint, revision, arm, decision, {", ".join(_TOTALS)}, classes,
                    updated_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
                ON CONFLICT (workspace, endpoint, revision, arm, decision) DO UPDATE SET
                {", ".join(f"{c} = t.{c} + EXCLUDED.{c}" for c in _TOTALS)},
                updated_at = EXCLUDED.updated_at,
                classes = (SELECT coalesce(jsonb_object_agg(label, count), '{{}}') FROM (
                    SELECT label, sum(count::bigint) AS count FROM (
                        SELECT * FROM jsonb_each_text(t.classes) AS a (label, count)
                        UNION ALL SELECT * FROM jsonb_each_text(EXCLUDED.classes) AS b (label, count)) AS both_
                    GROUP BY label) AS summed)""",  # noqa: S608
            [
                (*key, *(getattr(counts, c) for c in _TOTALS), json.dumps(counts.classes), tx.now)
                for key, counts in sorted(sums.items())
            ],
        )

    async def waiting(self, tx: Transaction, oldest_s: int, ended_by_s: int) -> list[tuple[WindowKey, bool]]:
        """Every window that `lock_open` would take were it free and without a limit: (its key, is changed)."""
        rows = await tx.fetch(
            f"""SELECT {_KEY}, is_changed FROM windows
                WHERE (is_changed OR NOT is_complete) AND (is_changed OR start_s >= $1) AND start_s <= $2""",  # noqa: S608
            oldest_s,
            ended_by_s,
        )
        return [(_key(row), row["is_changed"]) for row in rows]

    async def lock_open(
        self, tx: Transaction, oldest_s: int, ended_by_s: int, limit: int
    ) -> list[StoredWindow]:
        """Windows that ended by then and are changed, or not complete and not too old; those being written are left.

        The changed ones and the newest come first: those that stay partial for good must not keep them waiting.
        """
        rows = await tx.fetch(
            f"""SELECT {_KEY}, counts, is_complete, revision_no, is_changed FROM windows
                WHERE (is_changed OR NOT is_complete) AND (is_changed OR start_s >= $1) AND start_s <= $2
                ORDER BY is_changed DESC, start_s DESC LIMIT $3 FOR UPDATE SKIP LOCKED""",  # noqa: S608
            oldest_s,
            ended_by_s,
            limit,
        )
        return [_window(row) for row in rows]

    async def published(self, tx: Transaction, window: StoredWindow) -> None:
        """Note a window as announced with this number and state."""
        await tx.execute(
            f"""UPDATE windows SET revision_no = $9, is_complete = $10, is_changed = false, updated_at = $11
                WHERE ({_KEY}) = ($1, $2, $3, $4, $5, $6, $7, $8)""",  # noqa: S608
            *window.key,
            window.revision_no,
            window.is_complete,
            tx.now,
        )

    async def of_endpoint(
        self, workspace: str, endpoint: str, start_s: int, end_s: int
    ) -> list[StoredWindow]:
        """Windows that begin in [start_s, end_s), in time order."""
        rows = await self._database.fetch(
            f"""SELECT {_KEY}, counts, is_complete, revision_no, is_changed FROM windows
                WHERE workspace = $1 AND endpoint = $2 AND start_s >= $3 AND start_s < $4 ORDER BY {_ORDER}""",  # noqa: S608
            workspace,
            endpoint,
            start_s,
            end_s,
        )
        return [_window(row) for row in rows]

    async def page(
        self, workspace: str, endpoint: str, span: tuple[int, int], limit: int, after: WindowKey | None
    ) -> list[StoredWindow]:
        """The next windows that begin in [start, end), unix seconds, after a key, in time order."""
        last = after or WindowKey(workspace, endpoint, "", "", "", -1, "", span[0])
        rows = await self._database.fetch(
            f"""SELECT {_KEY}, counts, is_complete, revision_no, is_changed FROM windows
                WHERE workspace = $1 AND endpoint = $2 AND start_s >= $3 AND start_s < $4
                  AND ({_ORDER}) > ($5, $6, $7, $8, $9, $10)
                ORDER BY {_ORDER} LIMIT $11""",  # noqa: S608
            workspace,
            endpoint,
            *span,
            last.start_s,
            last.revision,
            last.arm,
            last.decision,
            last.route_version,
            last.segment,
            limit,
        )
        return [_window(row) for row in rows]

    async def totals(self) -> list[dict[str, Any]]:
        """Every total, with its key and when it last grew."""
        return [
            dict(row) | {"classes": json.loads(row["classes"])}
            for row in await self._database.fetch("TABLE totals")
        ]

    async def updated_since(self, moment: datetime, start_s: int) -> list[StoredWindow]:
        """Windows of every endpoint that begin at or after a time and were written since a moment."""
        rows = await self._database.fetch(
            f"""SELECT {_KEY}, counts, is_complete, revision_no, is_changed FROM windows
                WHERE updated_at >= $1 AND start_s >= $2""",  # noqa: S608
            moment,
            start_s,
        )
        return [_window(row) for row in rows]

    async def states(self) -> list[tuple[str, str, str, int]]:
        """(workspace, endpoint, `complete` or `partial`, windows)."""
        rows = await self._database.fetch(
            """SELECT workspace, endpoint, CASE WHEN is_complete THEN 'complete' ELSE 'partial' END AS state, count(*)
               FROM windows GROUP BY 1, 2, 3"""
        )
        return [tuple(row) for row in rows]

    async def prune(self, tx: Transaction, before_s: int) -> None:
        """Forget windows that began before a time."""
        await tx.execute("DELETE FROM windows WHERE start_s < $1", before_s)


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]


def _key(row: asyncpg.Record) -> WindowKey:
    return WindowKey(*(row[name] for name in WindowKey._fields))


def _counts(row: asyncpg.Record) -> WindowCounts:
    return WindowCounts.from_dict(orjson.loads(row["counts"]))


def _window(row: asyncpg.Record) -> StoredWindow:
    return StoredWindow(_key(row), _counts(row), row["is_complete"], row["revision_no"], row["is_changed"])
