"""The SQL of rollouts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from pydantic import TypeAdapter

from phantom_deployer.domain.rollouts.model import Judgement, Rollout, Transition
from phantom_deployer.domain.values import Listed, RolloutKey
from phantom_deployer.store.rows import Row
from phantom_platform.postgres.answers import AnswerReads, AnswerWrites


@cache
def _rollouts() -> TypeAdapter[Rollout]:
    return TypeAdapter(Rollout)


@cache
def _judgements() -> TypeAdapter[Judgement]:
    return TypeAdapter(Judgement)


class RolloutReads(AnswerReads):
    """Every SELECT about rollouts."""

    async def rollout(self, workspace: str, rollout_id: str) -> Rollout | None:
        sql = "SELECT body::text FROM rollouts WHERE workspace = $1 AND rollout_id = $2"
        return _parsed(await self._sql.fetchval(sql, workspace, rollout_id))

    async def newest_rollout(self, workspace: str, deployment_id: str) -> Rollout | None:
        sql = """
            SELECT body::text FROM rollouts WHERE workspace = $1 AND deployment_id = $2
            ORDER BY rollout_id DESC LIMIT 1"""
        return _parsed(await self._sql.fetchval(sql, workspace, deployment_id))

    async def live_rollout(self, workspace: str, deployment_id: str) -> Rollout | None:
        sql = "SELECT body::text FROM rollouts WHERE workspace = $1 AND deployment_id = $2 AND is_live"
        return _parsed(await self._sql.fetchval(sql, workspace, deployment_id))

    async def rollouts(
        self, workspace: str, before: str, size: int, deployment_id: str, live_only: bool
    ) -> Listed[Rollout]:
        """Newest first; `before`: the last one of the page before."""
        sql = """
            SELECT body::text FROM rollouts
            WHERE workspace = $1 AND ($2 = '' OR rollout_id < $2) AND ($4 = '' OR deployment_id = $4)
                AND (NOT $5 OR is_live)
            ORDER BY rollout_id DESC LIMIT $3"""
        found = await self._sql.fetch(sql, workspace, before, size + 1, deployment_id, live_only)
        items = [_rollouts().validate_json(each["body"]) for each in found[:size]]
        return Listed(items, items[-1].id if len(found) > size else "")

    async def live_rollouts(self) -> list[RolloutKey]:
        """Of every workspace."""
        sql = "SELECT workspace, deployment_id, rollout_id FROM rollouts WHERE is_live ORDER BY rollout_id"
        found = await self._sql.fetch(sql)
        return [RolloutKey(each["workspace"], each["deployment_id"], each["rollout_id"]) for each in found]

    async def replays_waiting(self) -> list[Rollout]:
        """Those of every workspace whose candidate is ready and whose replay has no report yet."""
        sql = """
            SELECT body::text FROM rollouts
            WHERE is_live AND state = 'pending' AND body ->> 'reason_code' = 'replaying'
                AND body -> 'replay' = 'null'::jsonb
            ORDER BY rollout_id"""
        return [_rollouts().validate_json(each["body"]) for each in await self._sql.fetch(sql)]

    async def rollout_states(self) -> dict[str, int]:
        """How many rollouts are in each state."""
        found = await self._sql.fetch("SELECT state, count(*) AS n FROM rollouts GROUP BY state")
        return {each["state"]: each["n"] for each in found}

    async def transitions(self, rollout_id: str) -> list[Transition]:
        sql = "SELECT * FROM rollout_transitions WHERE rollout_id = $1 ORDER BY number"
        return [_transition(each) for each in await self._sql.fetch(sql, rollout_id)]

    async def judgements(self, rollout_id: str) -> list[Judgement]:
        """One each time that the verdict, or what fired, changed."""
        sql = "SELECT body::text FROM rollout_verdicts WHERE rollout_id = $1 ORDER BY judged_at"
        return [_judgements().validate_json(each["body"]) for each in await self._sql.fetch(sql, rollout_id)]


class RolloutWrites(RolloutReads, AnswerWrites):
    """Changes of rollouts, in one transaction with their deployment's, whose row is locked first."""

    async def save_rollout(self, before: Rollout | None, after: Rollout, moves: Iterable[Transition]) -> None:
        """Write what differs: the rollout, its transitions, and a judgement that is another than before."""
        if after != before:
            sql = """
                INSERT INTO rollouts VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb)
                ON CONFLICT (rollout_id) DO UPDATE SET state = $4, is_live = $5, body = $7::jsonb"""
            body = _rollouts().dump_json(after).decode()
            key = (after.id, after.workspace, after.deployment_id)
            await self._tx.execute(sql, *key, after.state, after.is_live, after.created_at, body)
        for move in moves:
            sql = """
                INSERT INTO rollout_transitions (rollout_id, number, from_state, to_state, reason_code, reason, actor,
                    at, step, bp, route_version, criterion)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"""
            await self._tx.execute(sql, after.id, *_values(move))
        await self._save_judgement(before.verdict if before else None, after)

    async def _save_judgement(self, before: Judgement | None, rollout: Rollout) -> None:
        verdict = rollout.verdict
        if verdict is None or verdict.judged_at is None:
            return
        if before is not None and _essence(before) == _essence(verdict):
            return
        sql = "INSERT INTO rollout_verdicts VALUES ($1, $2, $3, $4, $5::jsonb) ON CONFLICT DO NOTHING"
        body = _judgements().dump_json(verdict).decode()
        await self._tx.execute(sql, rollout.id, verdict.judged_at, verdict.verdict, verdict.fired, body)


def _parsed(body: str | None) -> Rollout | None:
    return _rollouts().validate_json(body) if body is not None else None


def _essence(judgement: Judgement) -> tuple[object, ...]:
    return (judgement.step, judgement.verdict, judgement.fired)


def _transition(row: Row) -> Transition:
    return Transition(
        number=row["number"],
        from_state=row["from_state"],
        to_state=row["to_state"],
        reason_code=row["reason_code"],
        reason=row["reason"],
        actor=row["actor"],
        at=row["at"],
        step=row["step"],
        bp=row["bp"],
        route_version=row["route_version"],
        criterion=row["criterion"],
    )


def _values(move: Transition) -> tuple[object, ...]:
    return (
        move.number,
        move.from_state,
        move.to_state,
        move.reason_code,
        move.reason,
        move.actor,
        move.at,
        move.step,
        move.bp,
        move.route_version,
        move.criterion,
    )
