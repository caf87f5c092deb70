"""Promotions: asked for, decided by somebody else, executed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from phantom_platform.errors import Forbidden, Invalid, Refused, Violation
from phantom_registry.domain.stages import Stage, check_move
from phantom_registry.domain.values import Actor, Version

DEFAULT_EXPIRY_S = 7 * 86_400


class State(StrEnum):
    """What became of a promotion. `granted` lasts within one transaction: a granted promotion is executed in it."""

    PENDING = "pending"
    GRANTED = "granted"
    REJECTED = "rejected"
    EXPIRED = "expired"
    EXECUTED = "executed"


@dataclass(frozen=True)
class PromotionAsk:
    """What a caller wants. `expires_in_s` 0: seven days."""

    model_id: str
    version: str
    from_stage: Stage | None
    to_stage: Stage
    approval_required: bool = False
    reviewer: str = ""
    expires_in_s: int = 0


@dataclass(frozen=True)
class Promotion:
    """One promotion. The approval is for `digest`."""

    promotion_id: str
    model_id: str
    version: str
    from_stage: Stage
    to_stage: Stage
    state: State
    approval_required: bool
    reviewer: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime | None
    decided_by: str
    decided_at: datetime | None
    comment: str
    digest: str


def check_ask(ask: PromotionAsk, actor: Actor) -> None:
    """Raise `Invalid` where the words of the ask do not fit each other or the one who asks."""
    if not ask.approval_required:
        for name, value in (("reviewer", ask.reviewer), ("expires_in_s", ask.expires_in_s)):
            if value:
                raise _invalid("approval_not_required", name, "is for promotions with approval_required only")
        return
    if not ask.reviewer:
        raise _invalid("reviewer_missing", "reviewer", "name who decides, since approval_required is set")
    if ask.reviewer == actor.principal:
        raise _invalid(
            "reviewer_is_requester", "reviewer", "is who asks; name somebody else, nobody approves their own"
        )


def propose(ask: PromotionAsk, version: Version, actor: Actor, promotion_id: str, now: datetime) -> Promotion:
    """The promotion as it begins: pending, or executed where no approval is needed."""
    check_move(version.stage, ask.from_stage, ask.to_stage)
    if ask.approval_required and ask.reviewer == version.created_by:
        raise _invalid("reviewer_is_author", "reviewer", "made this version; name somebody else")
    expiry = timedelta(seconds=ask.expires_in_s or DEFAULT_EXPIRY_S)
    return Promotion(
        promotion_id=promotion_id,
        model_id=version.model_id,
        version=version.version,
        from_stage=version.stage,
        to_stage=ask.to_stage,
        state=State.PENDING if ask.approval_required else State.EXECUTED,
        approval_required=ask.approval_required,
        reviewer=ask.reviewer,
        requested_by=actor.principal,
        requested_at=now,
        expires_at=now + expiry if ask.approval_required else None,
        decided_by="",
        decided_at=None,
        comment="",
        digest=version.digest,
    )


def seen_at(promotion: Promotion, now: datetime) -> Promotion:
    """The promotion as it stands at `now`: a pending one past its time is expired, written down or not."""
    if promotion.state == State.PENDING and promotion.expires_at is not None and now >= promotion.expires_at:
        return replace(promotion, state=State.EXPIRED)
    return promotion


def check_decider(promotion: Promotion, version: Version, actor: Actor) -> None:
    """Raise `Forbidden` unless `actor` may decide: the reviewer or a holder of models:approve, never a party."""
    if actor.principal == promotion.requested_by:
        raise Forbidden("you asked for this promotion, so somebody else decides it", code="own_request")
    if actor.principal == version.created_by:
        raise Forbidden("you made this version, so somebody else decides its promotion", code="own_version")
    if actor.principal != promotion.reviewer and not actor.may_approve:
        raise Forbidden(
            f"this promotion is decided by {promotion.reviewer}, or by a holder of models:approve",
            code="not_the_reviewer",
            reviewer=promotion.reviewer,
        )


def check_open(promotion: Promotion, now: datetime) -> None:
    """Raise `Refused` unless the promotion still waits for a decision."""
    state = seen_at(promotion, now).state
    if state == State.EXPIRED:
        raise Refused(f"the promotion expired at {promotion.expires_at}; ask for it again", code="expired")
    if state != State.PENDING:
        raise Refused(f"the promotion is {state} already", code="already_decided", state=state.value)


def check_gates(promotion: Promotion, version: Version) -> None:
    """Raise unless what was approved is still what would be promoted, from where it was then."""
    if version.digest != promotion.digest:
        raise Refused(
            f"the approval is for {promotion.digest}, and the version now has {version.digest}; ask again",
            code="artifact_replaced",
            approved_digest=promotion.digest,
            digest=version.digest,
        )
    check_move(version.stage, promotion.from_stage, promotion.to_stage)


def decided(promotion: Promotion, grant: bool, actor: Actor, comment: str, now: datetime) -> Promotion:
    """The promotion after a decision; a granted one is executed with it."""
    state = State.EXECUTED if grant else State.REJECTED
    return replace(promotion, state=state, decided_by=actor.principal, decided_at=now, comment=comment)


def expired(promotion: Promotion, actor: Actor, now: datetime) -> Promotion:
    """The promotion after nobody decided in time."""
    return replace(promotion, state=State.EXPIRED, decided_by=actor.principal, decided_at=now)


def _invalid(code: str, field: str, description: str) -> Invalid:
    return Invalid(code=code, violations=[Violation(field, description)])
