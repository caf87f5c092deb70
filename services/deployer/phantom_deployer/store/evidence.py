"""The SQL of windows that the monitor published."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from phantom_deployer.domain.evidence import Block, BlockKey, Closed, Folded, Seen, Window
from phantom_platform.postgres.answers import AnswerReads, AnswerWrites

WINDOW = timedelta(seconds=5)
# Which windows belong to a span, whole ones only. $1 workspace, $2 endpoint, $3 and $4 route versions, first and last
# (0: none yet), $5 begin, $6 end of the span (null: none yet), $7 closed until, $8 candidate, $9 stable.
_COHORT = """
    FROM evidence_windows
    WHERE workspace = $1 AND endpoint = $2 AND is_complete
        AND route_version >= $3 AND ($4::bigint = 0 OR route_version <= $4)
        AND start_at >= $5 AND ($6::timestamptz IS NULL OR start_at < $6) AND start_at + length_s * interval '1 s' <= $7
        AND (revision = $8 AND decision IN ('rollout', 'shadow') OR revision = $9 AND decision = 'rollout')"""


class EvidenceReads(AnswerReads):
    """Every SELECT about windows."""

    async def closed(self, workspace: str, endpoint: str) -> Closed | None:
        """Up to where the endpoint's windows are published; None where that was never heard."""
        sql = "SELECT until, heard_at, gateways FROM evidence_closed WHERE workspace = $1 AND endpoint = $2"
        row = await self._sql.fetchrow(sql, workspace, endpoint)
        return Closed(row["until"], row["heard_at"], row["gateways"]) if row else None

    async def newest_seen(self, workspace: str, endpoint: str) -> int:
        """Grows whenever a window of the endpoint changes."""
        sql = "SELECT coalesce(max(seen), 0) FROM evidence_windows WHERE workspace = $1 AND endpoint = $2"
        newest: int = await self._sql.fetchval(sql, workspace, endpoint)
        return newest

    async def blocks(self, key: BlockKey) -> list[Seen]:
        """What the blocks of a span consist of, in order: enough to know whether one has changed."""
        sql = f"""
            SELECT floor(extract(epoch FROM start_at - $5) / $10)::int AS block, max(seen) AS seen, count(*) AS windows,
                count(*) FILTER (WHERE start_at + length_s * interval '1 s' <= $11) AS matured,
                max(start_at) FILTER (WHERE revision = $8 AND requests > 0) AS traffic
            {_COHORT} GROUP BY block ORDER BY block"""  # noqa: S608 - a constant
        found = await self._sql.fetch(sql, *_cohort(key), float(key.length_s), key.matured_until)
        return [
            Seen(
                number=each["block"],
                sign=(each["seen"], each["windows"], each["matured"]),
                last_traffic_at=each["traffic"] + WINDOW if each["traffic"] else None,
            )
            for each in found
        ]

    async def block(self, key: BlockKey, number: int) -> Block:
        """The windows of one block."""
        begin = key.begin + timedelta(seconds=number * key.length_s)
        sql = f"""
            SELECT sums, agreement::text AS agreement, revision = $8 AS is_candidate, decision, requests, failures,
                start_at + length_s * interval '1 s' <= $12 AS is_matured
            {_COHORT} AND start_at >= $10 AND start_at < $11"""
        end = begin + timedelta(seconds=key.length_s)
        found = await self._sql.fetch(sql, *_cohort(key), begin, end, key.matured_until)
        return Block(
            [
                Window(
                    each["sums"],
                    each["is_candidate"],
                    each["is_matured"],
                    each["decision"],
                    each["agreement"],
                    requests=each["requests"],
                    failures=each["failures"],
                )
                for each in found
            ]
        )

    async def oldest_window(self, workspace: str, endpoint: str) -> datetime | None:
        """Start of the oldest one that is not merged, nor came after its time was."""
        sql = """
            SELECT min(w.start_at) FROM evidence_windows w LEFT JOIN evidence_closed c USING (workspace, endpoint)
            WHERE workspace = $1 AND endpoint = $2 AND w.length_s = 5
                AND w.start_at >= coalesce(c.folded_until, '-infinity')"""
        oldest: datetime | None = await self._sql.fetchval(sql, workspace, endpoint)
        return oldest

    async def error_rate(
        self, workspace: str, endpoint: str, revision: str, begin: datetime
    ) -> tuple[int, int]:
        """(failed calls, calls) of a revision since then."""
        sql = """
            SELECT coalesce(sum(failures), 0)::bigint AS failures, coalesce(sum(requests), 0)::bigint AS requests
            FROM evidence_windows
            WHERE workspace = $1 AND endpoint = $2 AND revision = $3 AND decision = 'rollout' AND start_at >= $4"""
        row = await self._sql.fetchrow(sql, workspace, endpoint, revision, begin)
        return row["failures"], row["requests"]


class EvidenceWrites(EvidenceReads, AnswerWrites):
    """What the consumer of windows changes."""

    async def put_window(self, window: Window, place: tuple[object, ...], revision_no: int) -> None:
        """`place`: workspace, endpoint, start, route version, revision, arm, decision, segment. The newest revision
        of a window replaces the one before, whatever order they come in; what is merged changes no more."""
        sql = """
            INSERT INTO evidence_windows (workspace, endpoint, start_at, route_version, revision, arm, decision,
                segment, revision_no, is_complete, requests, failures, sums, agreement)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::jsonb
            WHERE NOT EXISTS (
                SELECT FROM evidence_closed WHERE workspace = $1 AND endpoint = $2 AND folded_until > $3)
            ON CONFLICT (workspace, endpoint, start_at, route_version, revision, arm, decision, segment) DO UPDATE
            SET revision_no = $9, is_complete = $10, requests = $11, failures = $12, sums = $13,
                agreement = $14::jsonb, seen = nextval('evidence_seen')
            WHERE evidence_windows.revision_no < $9"""
        await self._tx.execute(
            sql,
            *place,
            revision_no,
            window.is_complete,
            window.requests,
            window.failures,
            window.sums,
            window.agreement_json,
        )

    async def put_closed(self, workspace: str, endpoint: str, closed: Closed) -> None:
        sql = """
            INSERT INTO evidence_closed (workspace, endpoint, until, heard_at, gateways) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (workspace, endpoint) DO UPDATE
            SET until = greatest(evidence_closed.until, $3), heard_at = $4, gateways = $5"""
        await self._tx.execute(sql, workspace, endpoint, closed.until, closed.heard_at, closed.gateways)

    async def replace_windows(
        self, workspace: str, endpoint: str, until: datetime, folded: Iterable[Folded]
    ) -> None:
        """Those that began before `until` and are not merged yet, by these."""
        gone = "DELETE FROM evidence_windows WHERE workspace = $1 AND endpoint = $2 AND start_at < $3 AND length_s = 5"
        await self._tx.execute(gone, workspace, endpoint, until)
        sql = """
            INSERT INTO evidence_windows (workspace, endpoint, start_at, length_s, route_version, revision, decision,
                sums, agreement, requests, failures, arm, segment, revision_no, is_complete)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, 'folded', '', 0, true)"""
        for each in folded:
            window = each.window
            place = (each.start, each.length_s, each.route_version, each.revision, window.decision)
            sums = (window.sums, window.agreement_json, window.requests, window.failures)
            await self._tx.execute(sql, workspace, endpoint, *place, *sums)
        done = "UPDATE evidence_closed SET folded_until = $3 WHERE workspace = $1 AND endpoint = $2"
        await self._tx.execute(done, workspace, endpoint, until)

    async def forget_windows(self, before: datetime) -> None:
        """Those that began earlier, unless a live rollout is judged by them."""
        sql = """
            DELETE FROM evidence_windows w
            WHERE start_at < $1 AND NOT EXISTS (
                SELECT FROM rollouts r
                WHERE r.workspace = w.workspace AND r.deployment_id = w.endpoint AND r.is_live
                    AND w.start_at >= r.created_at)"""
        await self._tx.execute(sql, before)


def _cohort(key: BlockKey) -> tuple[object, ...]:
    return (
        key.workspace,
        key.endpoint,
        key.first_version,
        key.last_version,
        key.begin,
        key.end,
        key.closed_until,
        key.candidate,
        key.stable,
    )
