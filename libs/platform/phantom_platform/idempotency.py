"""Request ids: the same request twice is done once and answered twice.

A service's store answers to the protocols here (`postgres.answers` has the SQL), its use cases run in a `Once`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from pydantic import TypeAdapter

from phantom_platform.errors import AlreadyExists

T = TypeVar("T")


class Call(Protocol):
    """Who asks, and what. The same request id of a principal with another fingerprint is a mistake of theirs."""

    @property
    def workspace(self) -> str: ...
    @property
    def principal(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


class Answered(Protocol):
    """What was answered so far."""

    async def answer(self, call: Call) -> tuple[str, str | None] | None: ...


class Answering(Answered, Protocol):
    """One transaction in which a request is answered."""

    @property
    def now(self) -> datetime: ...
    def mark_mutation(self) -> None: ...
    async def claim(self, call: Call) -> bool: ...
    async def keep_answer(self, call: Call, answer_json: str) -> None: ...
    async def forget_answers(self, before: datetime) -> None: ...


WorkT = TypeVar("WorkT", bound=Answering, covariant=True)


class Store(Protocol[WorkT]):
    """Where answers are kept, and transactions come from."""

    @property
    def reads(self) -> Answered: ...
    def transaction(self) -> AbstractAsyncContextManager[WorkT]: ...


class Once(Generic[WorkT]):
    """Runs changes in a transaction each, and remembers what was answered to a request id."""

    def __init__(self, store: Store[WorkT]) -> None:
        self._store = store

    async def recall(self, call: Call, kind: type[T]) -> T | None:
        """The answer that this call got before, to be asked before slow preparations; None if it is new."""
        if not call.request_id:
            return None
        known = _answer(call, kind, await self._store.reads.answer(call))
        if known is not None:
            async with self._store.transaction() as tx:
                tx.mark_mutation()  # it is audited, though it changes nothing
        return known

    async def run(self, call: Call, kind: type[T], work: Callable[[WorkT], Awaitable[T]]) -> T:
        """`work`'s answer, or the one it gave before. `AlreadyExists` `request_id_reused` for other arguments."""
        async with self._store.transaction() as tx:
            tx.mark_mutation()
            if not call.request_id:
                return await work(tx)
            if not await tx.claim(call):
                known = _answer(call, kind, await tx.answer(call))
                if known is not None:
                    return known
            answer = await work(tx)
            await tx.keep_answer(call, TypeAdapter(kind).dump_json(answer).decode())
            return answer


def _answer(call: Call, kind: type[T], found: tuple[str, str | None] | None) -> T | None:
    if found is None:
        return None
    fingerprint, answer = found
    if fingerprint != call.fingerprint:
        raise AlreadyExists(
            f"the request id {call.request_id!r} was used for another request; use a new one for each",
            code="request_id_reused",
            request_id=call.request_id,
        )
    return None if answer is None else TypeAdapter(kind).validate_json(answer)
