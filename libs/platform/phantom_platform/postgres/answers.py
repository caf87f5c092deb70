"""The SQL of request ids, for a service's `Reads` and `Writes` to inherit.

Their table is the service's own: (workspace, principal, request_id) as its key, fingerprint, answer jsonb (null only
inside the transaction that is finding it), created_at.
"""

# ruff: noqa: S608 - the table's name is a constant of the service

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol

from phantom_platform.idempotency import Call
from phantom_platform.postgres.transaction import Transaction


class Executor(Protocol):
    """What runs SELECTs: the database (each statement by itself), or one of its transactions."""

    async def fetch(self, sql: str, *args: object) -> Sequence[Any]: ...
    async def fetchrow(self, sql: str, *args: object) -> Any: ...
    async def fetchval(self, sql: str, *args: object) -> Any: ...


class AnswerReads:
    """What was answered so far."""

    ANSWERS: ClassVar[str] = "answers"

    def __init__(self, executor: Executor) -> None:
        self._sql = executor

    async def answer(self, call: Call) -> tuple[str, str | None] | None:
        """What a request id was used for (a fingerprint), and the answer as JSON; None for a new one."""
        sql = f"""
            SELECT fingerprint, answer::text AS answer FROM {self.ANSWERS}
            WHERE workspace = $1 AND principal = $2 AND request_id = $3"""
        row = await self._sql.fetchrow(sql, *_key(call))
        return None if row is None else (row["fingerprint"], row["answer"])


class AnswerWrites(AnswerReads):
    """One transaction of a service."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._tx = transaction

    @property
    def now(self) -> datetime:
        """The moment it began."""
        return self._tx.now

    def mark_mutation(self) -> None:
        """The call is audited even where it announces nothing."""
        self._tx.mark_mutation()

    async def claim(self, call: Call) -> bool:
        """Whether the request id is new, now ours. Waits for a transaction that is finding its answer."""
        sql = f"""
            INSERT INTO {self.ANSWERS} (workspace, principal, request_id, fingerprint, created_at)
            VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"""
        return await self._tx.execute(sql, *_key(call), call.fingerprint, self.now) == "INSERT 0 1"

    async def keep_answer(self, call: Call, answer_json: str) -> None:
        """Of a request id that was claimed here."""
        sql = f"""
            UPDATE {self.ANSWERS} SET answer = $4::jsonb
            WHERE workspace = $1 AND principal = $2 AND request_id = $3"""
        await self._tx.execute(sql, *_key(call), answer_json)

    async def forget_answers(self, before: datetime) -> None:
        """Whoever repeats a request later than that does it again."""
        await self._tx.execute(f"DELETE FROM {self.ANSWERS} WHERE created_at < $1", before)


def _key(call: Call) -> tuple[str, str, str]:
    return (call.workspace, call.principal, call.request_id)
