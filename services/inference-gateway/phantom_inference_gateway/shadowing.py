"""Copies of live calls for a shadow revision: answered, logged, and given to nobody.

A copy is made of a call that the rollout decided and the stable revision takes, once its first attempt was sent. It
leaves behind it, is never retried, takes nothing from the retry budget, and is dropped where too many are under way
or the shadow's replica has too much to do: so callers notice nothing of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from phantom_inference_gateway.attempts import Attempt, Target
from phantom_inference_gateway.calls import Call, Entry, id_text
from phantom_inference_gateway.domain.replicas import choose
from phantom_inference_gateway.domain.retry import Ending
from phantom_inference_gateway.domain.routing import SHADOW, Decision, Shadow
from phantom_inference_gateway.domain.tables import Table
from phantom_inference_gateway.journey import Journey, ShadowLimits, Source
from phantom_inference_gateway.ports import Records
from phantom_platform.telemetry import logs

log = logs.get(__name__)

STOP_WITHIN_S = 1.0
"""How long copies may take at the end of the process; what is under way then is not on record."""

_DEADLINE_SLACK_S = 0.01


@dataclass(frozen=True, slots=True)
class _Copy:
    """Of a call, when its first attempt was sent; what becomes of the call afterwards is no business of it."""

    call: Call
    table: Table[Target]
    revision: str
    unit: str
    prediction_id: bytes
    received_us: int


class Shadows:
    """A part: the copies under way in this process."""

    name = "shadow copies"

    def __init__(self, records: Records, source: Source, limits: ShadowLimits | None = None) -> None:
        self._records = records
        self._source = source
        self._limits = limits or ShadowLimits()
        self._loop = asyncio.get_running_loop()
        self._size = 0
        self._is_stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0
        # Counts since start: put on record, and left out.
        self.answered = self.dropped = 0

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """No call is under way any more: let the last copies end, for a moment."""
        self._is_stopping = True
        try:
            await asyncio.wait_for(self._idle.wait(), STOP_WITHIN_S)
        except TimeoutError:
            log.info("shadow copies are given up", action="shadow_copies_given_up", copies=self.in_flight)

    def offer(self, journey: Journey, shadow: Shadow) -> None:
        """Copy a call whose first attempt was just sent, where the shadow takes it and there is room."""
        call, choice, table = journey.call, journey.choice, journey.table
        is_stable = choice.decision is Decision.ROLLOUT and choice.revision == table.plan.control
        if not (is_stable and shadow.takes(journey.unit or id_text(journey.prediction_id))):
            return
        size = len(call.body)
        if self.in_flight >= self._limits.copies or self._size + size > self._limits.size:
            self.dropped += 1
            return
        self.in_flight += 1
        self._size += size
        self._idle.clear()
        # From here on the route version is not drained.
        table.attempts += 1
        copy = _Copy(call, table, shadow.revision, journey.unit, journey.prediction_id, journey.received_us)
        # After what this turn of the loop writes for callers.
        self._loop.call_soon(self._send, copy)

    def _send(self, copy: _Copy) -> None:
        now, deadline = self._loop.time(), copy.call.deadline
        target = choose(copy.table.targets.get(copy.revision, ()), now, self._source.below)
        if target is None or now >= deadline or not target.gate.admit(target.outstanding, now, deadline):
            self.dropped += 1
            self._leave(copy)
            return
        attempt = Attempt(copy.call.body, deadline, self._loop.create_future())
        attempt.ended.add_done_callback(lambda _: self._ended(copy, attempt, target, now))
        target.send(attempt, now)

    def _ended(self, copy: _Copy, attempt: Attempt, target: Target, sent: float) -> None:
        now, ending = self._loop.time(), attempt.ending
        target.release(attempt, now)
        if ending is Ending.ANSWERED:
            target.gate.answered(now - sent, now, attempt.code == 0)
        elif now >= attempt.deadline - _DEADLINE_SLACK_S:
            target.gate.late(now)
        # Never executed, or lost because this process ends: that says nothing of the revision.
        if ending in (Ending.UNSENT, Ending.REFUSED) or (ending is Ending.LOST and self._is_stopping):
            self.dropped += 1
        else:
            self.answered += 1
            self._records.record(_entry(copy, attempt, target.replica_id))
        self._leave(copy)

    def _leave(self, copy: _Copy) -> None:
        copy.table.attempts -= 1
        self.in_flight -= 1
        self._size -= len(copy.call.body)
        if not self.in_flight:
            self._idle.set()


def _entry(copy: _Copy, attempt: Attempt, replica: str) -> Entry:
    is_ok = attempt.ending is Ending.ANSWERED and attempt.code == 0
    return Entry(
        copy.table.key,
        copy.prediction_id,
        copy.call.request_id,
        copy.unit,
        copy.revision,
        copy.revision,
        replica if is_ok else "",
        SHADOW,
        Decision.SHADOW,
        copy.table.version,
        0,
        attempt.code,
        copy.received_us,
        tuple(attempt.parts) if is_ok else (),
    )
