"""Request ids: the same request twice is done once and answered twice."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from phantom_deployer.domain.values import Answer, Call
from phantom_deployer.service.ports import Store, Work
from phantom_platform.errors import AlreadyExists


class Once:
    """Runs changes in a transaction each, and remembers what was answered to a request id."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def recall(self, call: Call) -> Answer | None:
        """The answer that this call got before, to be asked before slow preparations; None if it is new."""
        known = _answer(call, await self._store.reads.answer(call)) if call.request_id else None
        if known is not None:
            async with self._store.transaction() as tx:
                tx.mark_mutation()  # it is audited, though it changes nothing
        return known

    async def run(self, call: Call, work: Callable[[Work], Awaitable[Answer]]) -> Answer:
        """`work`'s answer, or the one it gave before. `AlreadyExists` `request_id_reused` for other arguments."""
        async with self._store.transaction() as tx:
            tx.mark_mutation()
            if not call.request_id:
                return await work(tx)
            if not await tx.claim(call):
                known = _answer(call, await tx.answer(call))
                if known is not None:
                    return known
            answer = await work(tx)
            await tx.keep_answer(call, json.dumps(asdict(answer)))
            return answer


def _answer(call: Call, found: tuple[str, str | None] | None) -> Answer | None:
    if found is None:
        return None
    fingerprint, answer = found
    if fingerprint != call.fingerprint:
        raise AlreadyExists(
            f"the request id {call.request_id!r} was used for another request; use a new one for each",
            code="request_id_reused",
            request_id=call.request_id,
        )
    return None if answer is None else Answer(**json.loads(answer))
