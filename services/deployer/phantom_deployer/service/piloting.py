"""The use cases of the pilot: one look at one rollout, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from phantom_deployer.domain.rollouts.model import ReplayReport, Rollout
from phantom_deployer.domain.rollouts.step import look
from phantom_deployer.domain.rollouts.turn import Around, waiting_for, with_replay
from phantom_deployer.domain.values import RolloutKey
from phantom_deployer.service.evidence import Evidences
from phantom_deployer.service.folding import fold
from phantom_deployer.service.moves import save
from phantom_deployer.service.ports import Acknowledged, Experiments, Store
from phantom_platform.clock import Clock


@dataclass(frozen=True, slots=True)
class Looked:
    """A rollout after a look. `is_changed`: another look may have more to do at once."""

    rollout: Rollout
    is_changed: bool
    # What a look at a rollback that has just ended knows: verdict to acknowledged, s.
    rollback_s: float | None = None


class Piloting:
    """Takes rollouts on. What a look decides from is read before its transaction, and decided on only if still so."""

    def __init__(
        self, store: Store, experiments: Experiments, acks: Acknowledged, evidences: Evidences
    ) -> None:
        self._store = store
        self._experiments = experiments
        self._acks = acks
        self._evidences = evidences

    async def live(self) -> list[RolloutKey]:
        return await self._store.reads.live_rollouts()

    async def states(self) -> dict[str, int]:
        return await self._store.reads.rollout_states()

    async def advance(self, key: RolloutKey) -> Looked | None:
        """None where it has ended."""
        seen = await self._store.reads.rollout(key.workspace, key.rollout_id)
        if seen is None or not seen.is_live:
            self._evidences.forget(key.rollout_id)
            return None
        evidence = await self._evidences.of(seen)
        async with self._store.transaction() as work:
            deployment = await work.lock(key.workspace, key.deployment_id)
            current = await work.rollout(key.workspace, key.rollout_id)
            if deployment is None or current is None or not current.is_live:
                return None
            if current.transitions != seen.transitions or current.spans != seen.spans:
                return Looked(current, is_changed=True)
            around = Around(
                now=work.now,
                waiting=lambda route, version: self._acks.waiting(route, version, "applied"),
                used=self._experiments.used(key.workspace),
                evidence=evidence,
            )
            turn = look(current, deployment, around)
            turn.rollout = waiting_for(turn.rollout, "")
            if turn.rollout == current and turn.deployment == deployment and not turn.facts:
                return Looked(current, is_changed=False)
            rollout, _ = await save(work, deployment, current, turn, experiments=self._experiments)
        is_changed = bool(turn.moves) or rollout.spans != current.spans
        return Looked(rollout, is_changed, _rollback_s(current, rollout))

    async def cannot_go_on(self, key: RolloutKey, why: str) -> None:
        """For whoever asks how it stands, until a look goes through."""
        async with self._store.transaction() as work:
            await work.lock(key.workspace, key.deployment_id)
            current = await work.rollout(key.workspace, key.rollout_id)
            if current is not None and current.is_live:
                await work.save_rollout(current, waiting_for(current, why), ())

    async def replayed(self, key: RolloutKey, report: ReplayReport) -> None:
        """What past requests through the candidate led to; the next look judges it. A second report changes nothing."""
        async with self._store.transaction() as work:
            await work.lock(key.workspace, key.deployment_id)
            current = await work.rollout(key.workspace, key.rollout_id)
            if current is not None and current.is_live and current.replay is None:
                await work.save_rollout(current, with_replay(current, report), ())

    async def fold(self, clock: Clock, key: RolloutKey) -> int:
        """Merge windows that are final, while nobody looks at the rollout; returns how many hours."""
        return await fold(self._store, clock, key)

    async def forget_windows(self, before: datetime) -> None:
        async with self._store.transaction() as work:
            await work.forget_windows(before)


def _rollback_s(before: Rollout, after: Rollout) -> float | None:
    if after.state != "rolled_back" or before.state == "rolled_back" or after.rollback_at is None:
        return None
    return (after.ended_at - after.rollback_at).total_seconds() if after.ended_at else None
