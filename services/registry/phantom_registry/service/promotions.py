"""Promotions and the approvals that some of them wait for."""

from __future__ import annotations

from datetime import timedelta

from phantom_contracts.events import registry as events
from phantom_platform import audit
from phantom_platform.clock import Clock
from phantom_platform.errors import NotFound, Refused
from phantom_platform.idempotency import Once
from phantom_platform.ids import check_principal, new_id
from phantom_registry.domain import approvals
from phantom_registry.domain.approvals import Promotion, PromotionAsk, State
from phantom_registry.domain.stages import Stage
from phantom_registry.domain.values import Actor, Artifact, Call, Listed, Page, Version
from phantom_registry.service import find
from phantom_registry.service.models import announce
from phantom_registry.service.ports import Artifacts, Reads, Store, Work

_ITSELF = Actor("registry", "")


class Promotions:
    """Use cases on stages."""

    def __init__(self, store: Store, artifacts: Artifacts, clock: Clock) -> None:
        self._store = store
        self._once = Once(store)
        self._artifacts = artifacts
        self._clock = clock

    async def promote(self, call: Call, ask: PromotionAsk) -> Promotion:
        """Move a version to a stage, or ask for the approval that this needs."""
        approvals.check_ask(ask, call.actor)
        if ask.reviewer:
            check_principal(ask.reviewer, "reviewer")
        audit.resource(f"{call.workspace}/{ask.model_id}/{ask.version}")
        if (known := await self._once.recall(call, Promotion)) is not None:
            return known
        version = await find.version(self._store.reads, call.workspace, ask.model_id, ask.version)
        await self._check_artifact(version, ask.to_stage)

        async def work(tx: Work) -> Promotion:
            await find.locked_model(tx, call.workspace, ask.model_id)
            version = await find.version(tx, call.workspace, ask.model_id, ask.version)
            promotion = approvals.propose(ask, version, call.actor, new_id(), tx.now)
            if promotion.state == State.EXECUTED:
                await tx.add_promotion(call.workspace, promotion)
                await self._execute(tx, call, promotion)
            else:
                await self._request(tx, call, promotion)
            return promotion

        return await self._once.run(call, Promotion, work)

    async def decide(self, call: Call, promotion_id: str, grant: bool, comment: str) -> Promotion:
        """Grant (and execute) or reject. The gates are asked again now, not when the promotion was asked for."""
        if (known := await self._once.recall(call, Promotion)) is not None:
            return known
        promotion = await self._find(self._store.reads, call.workspace, promotion_id)
        audit.resource(f"{call.workspace}/{promotion.model_id}/{promotion.version}")
        version = await self._deciding(self._store.reads, call, promotion)
        if grant:
            await self._check_artifact(version, promotion.to_stage)

        async def work(tx: Work) -> Promotion:
            await find.locked_model(tx, call.workspace, promotion.model_id)
            waiting = await self._find(tx, call.workspace, promotion_id)
            version = await self._deciding(tx, call, waiting)
            if grant:
                approvals.check_gates(waiting, version)
            decided = approvals.decided(waiting, grant, call.actor, comment, tx.now)
            await tx.save_decision(call.workspace, decided)
            await self._announce_decision(
                tx, call.workspace, decided, State.GRANTED if grant else State.REJECTED
            )
            if grant:
                await self._execute(tx, call, decided)
            return decided

        return await self._once.run(call, Promotion, work)

    async def get(self, workspace: str, promotion_id: str) -> Promotion:
        """As it stands now: overdue ones are expired."""
        found = await self._find(self._store.reads, workspace, promotion_id)
        return approvals.seen_at(found, self._clock.now())

    async def list_promotions(
        self, workspace: str, page: Page, state: State | None, model_id: str
    ) -> Listed[Promotion]:
        """Newest first; `state` None: all."""
        now = self._clock.now()
        found = await self._store.reads.promotions(workspace, page, state, model_id, now)
        return Listed([approvals.seen_at(each, now) for each in found.items], found.last)

    async def expire_overdue(self, limit: int = 100) -> int:
        """Write down, and announce, what expired; how many."""
        async with self._store.transaction() as tx:
            overdue = await tx.overdue(limit)
        for workspace, promotion in overdue:
            async with self._store.transaction() as tx:
                await find.locked_model(tx, workspace, promotion.model_id)
                await self._expire(tx, workspace, promotion.promotion_id)
        return len(overdue)

    async def forget_answers(self, kept: timedelta) -> None:
        """Request ids older than `kept` are new again."""
        async with self._store.transaction() as tx:
            await tx.forget_answers(tx.now - kept)

    async def _check_artifact(self, version: Version, to_stage: Stage) -> None:
        # A version whose bytes are lost can still be put away.
        if to_stage != Stage.ARCHIVED:
            await self._artifacts.check_intact(Artifact(version.digest, version.size_bytes))

    async def _find(self, reads: Reads, workspace: str, promotion_id: str) -> Promotion:
        found = await reads.promotion(workspace, promotion_id)
        if found is None:
            raise NotFound(f"there is no promotion {promotion_id}", code="promotion_not_found")
        return found

    async def _deciding(self, reads: Reads, call: Call, promotion: Promotion) -> Version:
        """The version, if this caller may decide about it now."""
        version = await find.version(reads, call.workspace, promotion.model_id, promotion.version)
        approvals.check_decider(promotion, version, call.actor)
        approvals.check_open(promotion, self._clock.now())
        return version

    async def _request(self, tx: Work, call: Call, promotion: Promotion) -> None:
        pending = await tx.pending_of(call.workspace, promotion.model_id, promotion.version)
        if pending is not None:
            if approvals.seen_at(pending, tx.now).state != State.EXPIRED:
                raise Refused(
                    f"promotion {pending.promotion_id} of this version to {pending.to_stage} waits for "
                    f"{pending.reviewer}; let it be decided first",
                    code="promotion_pending",
                    promotion_id=pending.promotion_id,
                )
            await self._expire(tx, call.workspace, pending.promotion_id)
        await tx.add_promotion(call.workspace, promotion)
        event = events.PromotionRequested(
            workspace=call.workspace,
            model_id=promotion.model_id,
            model_version=promotion.version,
            promotion_id=promotion.promotion_id,
            from_stage=promotion.from_stage.value,
            to_stage=promotion.to_stage.value,
            reviewer=promotion.reviewer,
            actor=promotion.requested_by,
        )
        await announce(tx, event, promotion.model_id)

    async def _execute(self, tx: Work, call: Call, promotion: Promotion) -> None:
        await tx.set_stage(call.workspace, promotion.model_id, promotion.version, promotion.to_stage)
        event = events.StageChanged(
            workspace=call.workspace,
            model_id=promotion.model_id,
            model_version=promotion.version,
            from_stage=promotion.from_stage.value,
            to_stage=promotion.to_stage.value,
            digest=promotion.digest,
            actor=call.actor.principal,
        )
        await announce(tx, event, promotion.model_id)

    async def _expire(self, tx: Work, workspace: str, promotion_id: str) -> None:
        """The model is locked; nothing where somebody was faster."""
        promotion = approvals.seen_at(await self._find(tx, workspace, promotion_id), tx.now)
        if promotion.state != State.EXPIRED or promotion.decided_at is not None:
            return
        expired = approvals.expired(promotion, _ITSELF, tx.now)
        await tx.save_decision(workspace, expired)
        await self._announce_decision(tx, workspace, expired, State.EXPIRED)

    async def _announce_decision(
        self, tx: Work, workspace: str, promotion: Promotion, decision: State
    ) -> None:
        event = events.PromotionDecided(
            workspace=workspace,
            model_id=promotion.model_id,
            model_version=promotion.version,
            promotion_id=promotion.promotion_id,
            decision=decision.value,
            actor=promotion.decided_by,
            comment=promotion.comment,
        )
        await announce(tx, event, promotion.model_id)
