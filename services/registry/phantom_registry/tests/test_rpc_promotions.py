"""Stages and approvals through the real server."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from phantom.registry.v1 import model_pb2 as model_pb
from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from phantom_platform.errors import Conflict, Forbidden, Invalid, Refused
from phantom_platform.testing.audit import assert_audited
from phantom_platform.testing.clock import FakeClock
from phantom_registry.reconciler import Housekeeper
from phantom_registry.tests.conftest import MODEL_BYTES, Running, digest_of, refused, register, spec, upload

D, S, P, A = (
    model_pb.STAGE_DEVELOPMENT,
    model_pb.STAGE_STAGING,
    model_pb.STAGE_PRODUCTION,
    model_pb.STAGE_ARCHIVED,
)


async def promote(
    stub: RegistryServiceStub, to: Any, version: str = "1.0.0", **fields: Any
) -> model_pb.Promotion:
    request = pb.PromoteModelRequest(model_id="fraud", version=version, to_stage=to, **fields)
    return (await stub.PromoteModel(request)).promotion


async def ask(stub: RegistryServiceStub, **fields: Any) -> model_pb.Promotion:
    """For production, to be decided by bob."""
    words = {"from_stage": S, "approval_required": True, "reviewer": "bob", **fields}
    return await promote(stub, P, **words)


async def decide(
    stub: RegistryServiceStub, promotion: model_pb.Promotion, grant: bool = True, **fields: Any
) -> model_pb.Promotion:
    request = pb.DecideApprovalRequest(promotion_id=promotion.promotion_id, grant=grant, **fields)
    return (await stub.DecideApproval(request)).promotion


async def stage(stub: RegistryServiceStub, version: str = "1.0.0") -> Any:
    return (await stub.GetVersion(pb.GetVersionRequest(model_id="fraud", version=version))).version.stage


@pytest.fixture
async def cleo(registry: Running, ada: RegistryServiceStub) -> RegistryServiceStub:
    """Asks for promotions; ada made the version, which is in staging."""
    await register(ada, stage=S)
    return await registry.client("cleo")


async def test_a_promotion_without_approval_is_executed_at_once(
    registry: Running, cleo: RegistryServiceStub
) -> None:
    with assert_audited(registry.serving.registry):
        done = await promote(cleo, P, from_stage=S)
    assert (done.state, done.from_stage, done.to_stage) == ("executed", S, P)
    assert (done.requested_by, done.digest) == ("cleo", digest_of(MODEL_BYTES))
    assert await stage(cleo) == P
    event = (await registry.events("StageChanged"))[0]
    assert (event["from_stage"], event["to_stage"], event["actor"]) == ("staging", "production", "cleo")
    assert event["number"] == 3


async def test_the_guides_promotion_waits_for_its_reviewer_and_then_happens(
    registry: Running, cleo: RegistryServiceStub
) -> None:
    reviewer = "senior-ml-engineer@company.com"
    waiting = await ask(cleo, reviewer=reviewer)
    assert (waiting.state, waiting.reviewer, waiting.approval_required) == ("pending", reviewer, True)
    assert waiting.expires_at.seconds - waiting.requested_at.seconds == 7 * 86_400
    assert await stage(cleo) == S
    senior = await registry.client(reviewer, "models:review")
    with assert_audited(registry.serving.registry):
        done = await decide(senior, waiting, comment="looks fine")
    assert (done.state, done.decided_by, done.comment) == ("executed", reviewer, "looks fine")
    assert done.HasField("decided_at")
    assert await stage(cleo) == P
    kinds = [(each["kind"], each["number"]) for each in await registry.events()]
    assert kinds[2:] == [("PromotionRequested", 3), ("PromotionDecided", 4), ("StageChanged", 5)]
    found = await cleo.GetPromotion(pb.GetPromotionRequest(promotion_id=done.promotion_id))
    assert found.promotion == done


async def test_a_rejected_promotion_moves_nothing_and_may_be_asked_for_again(
    registry: Running, cleo: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    done = await decide(bob, await ask(cleo), grant=False, comment="no")
    assert done.state == "rejected"
    assert await stage(cleo) == S
    assert await registry.events("StageChanged") == []
    assert (await registry.events("PromotionDecided"))[0]["decision"] == "rejected"
    await refused("already_decided", decide(bob, done))
    assert (await ask(cleo)).state == "pending"


async def test_only_the_reviewer_or_a_holder_of_models_approve_decides(
    registry: Running, cleo: RegistryServiceStub, ada: RegistryServiceStub
) -> None:
    waiting = await ask(cleo)
    dora = await registry.client("dora", "models:review")
    for stub, code in ((cleo, "own_request"), (ada, "own_version"), (dora, "not_the_reviewer")):
        error = await refused(code, decide(stub, waiting))
        assert isinstance(error, Forbidden)
    # Not even with every permission there is.
    await refused("own_request", decide(await registry.client("cleo", "*"), waiting))
    await refused("own_version", decide(await registry.client("ada", "*"), waiting))
    assert (await registry.audits())[-1]["error_code"] == "own_version"
    approver = await registry.client("dora", "models:review", "models:approve")
    assert (await decide(approver, waiting)).decided_by == "dora"


async def test_approving_alone_is_not_reviewing(registry: Running, cleo: RegistryServiceStub) -> None:
    waiting = await ask(cleo)
    approver = await registry.client("dora", "models:approve")
    error = await refused("permission_missing", decide(approver, waiting))
    assert error.fields["permission"] == "models:review"


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"reviewer": "cleo"}, "reviewer_is_requester", "reviewer"),
        ({"reviewer": "ada"}, "reviewer_is_author", "reviewer"),
        ({"reviewer": ""}, "reviewer_missing", "reviewer"),
        ({"reviewer": "not a name"}, "invalid_principal", "reviewer"),
        ({"approval_required": False}, "approval_not_required", "reviewer"),
        (
            {"approval_required": False, "reviewer": "", "expires_in_s": 5},
            "approval_not_required",
            "expires_in_s",
        ),
        ({"expires_in_s": -1}, "invalid_request", "expires_in_s"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_by_field(
    registry: Running, cleo: RegistryServiceStub, fields: dict[str, Any], code: str, field: str
) -> None:
    error = await refused(code, ask(cleo, **fields))
    assert isinstance(error, Invalid)
    assert error.violations[0].field == field
    assert await registry.events("PromotionRequested") == []


async def test_no_stage_to_move_to_is_refused(cleo: RegistryServiceStub) -> None:
    await refused("invalid_request", promote(cleo, model_pb.STAGE_UNSPECIFIED))


async def test_a_stale_stage_is_a_conflict(cleo: RegistryServiceStub) -> None:
    error = await refused("stale_stage", promote(cleo, P, from_stage=D))
    assert isinstance(error, Conflict)
    assert error.fields["stage"] == "staging"


async def test_of_two_promotions_at_once_one_wins(registry: Running, cleo: RegistryServiceStub) -> None:
    done = await asyncio.gather(
        *(promote(cleo, to, from_stage=S) for to in (P, A, P, D)), return_exceptions=True
    )
    assert sum(not isinstance(each, BaseException) for each in done) == 1
    assert len(await registry.events("StageChanged")) == 1


async def test_of_a_grant_and_a_rejection_at_once_one_wins(
    registry: Running, cleo: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    waiting = await ask(cleo)
    done = await asyncio.gather(
        *(decide(bob, waiting, grant) for grant in (True, False, True, False)), return_exceptions=True
    )
    winners = [each for each in done if not isinstance(each, BaseException)]
    assert len(winners) == 1
    assert len(await registry.events("PromotionDecided")) == 1
    assert await stage(cleo) == (P if winners[0].state == "executed" else S)


async def test_one_version_waits_for_one_approval_at_a_time(
    cleo: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    waiting = await ask(cleo)
    error = await refused("promotion_pending", ask(cleo, reviewer="dora"))
    assert isinstance(error, Refused)
    assert error.fields["promotion_id"] == waiting.promotion_id
    # Putting the version away does not wait; the approval then finds another stage.
    await promote(cleo, A)
    await refused("stale_stage", decide(bob, waiting))
    assert await stage(cleo) == A


async def test_an_overdue_approval_is_expired_before_and_after_it_is_written_down(
    registry: Running, cleo: RegistryServiceStub, bob: RegistryServiceStub, clock: FakeClock
) -> None:
    waiting = await ask(cleo, expires_in_s=60)
    clock.advance(61)
    found = await cleo.GetPromotion(pb.GetPromotionRequest(promotion_id=waiting.promotion_id))
    assert found.promotion.state == "expired"
    error = await refused("expired", decide(bob, waiting))
    assert isinstance(error, Refused)
    again = await ask(cleo, expires_in_s=60)
    assert again.state == "pending"
    assert [each["decision"] for each in await registry.events("PromotionDecided")] == ["expired"]
    clock.advance(61)
    keeper = Housekeeper(registry.promotions, interval_s=1, answers_kept=timedelta(days=14))
    await keeper.look()
    await keeper.look()
    assert [each["decision"] for each in await registry.events("PromotionDecided")] == ["expired"] * 2
    listed = await cleo.ListApprovals(pb.ListApprovalsRequest(state="expired"))
    assert [each.promotion_id for each in listed.promotions] == [again.promotion_id, waiting.promotion_id]


async def test_request_ids_are_forgotten_after_their_time(
    registry: Running, cleo: RegistryServiceStub, clock: FakeClock
) -> None:
    await promote(cleo, P, request_id="r1")
    clock.advance(100)
    keeper = Housekeeper(registry.promotions, interval_s=1, answers_kept=timedelta(seconds=99))
    await keeper.look()
    await refused("already_in_stage", promote(cleo, P, request_id="r1"))


async def test_an_approval_is_for_the_bytes_it_was_asked_for(
    registry: Running, cleo: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    """No RPC replaces a version's bytes; this is what happens if somebody does it in the tables."""
    waiting = await ask(cleo)
    other = MODEL_BYTES + b" "
    await upload(cleo, other)
    await registry.database.fetch("UPDATE versions SET digest = $1", digest_of(other))
    error = await refused("artifact_replaced", decide(bob, waiting))
    assert error.fields["approved_digest"] == digest_of(MODEL_BYTES)
    assert await stage(cleo) == S


async def test_the_artifact_is_looked_at_when_the_promotion_is_executed(
    registry: Running, cleo: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    waiting = await ask(cleo)
    path = registry.artifacts.path(waiting.digest)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    await refused("artifact_damaged", decide(bob, waiting))
    path.unlink()
    await refused("artifact_missing", decide(bob, waiting))
    await refused("artifact_missing", promote(cleo, P))
    assert await stage(cleo) == S
    await upload(cleo)
    assert (await decide(bob, waiting)).state == "executed"


async def test_a_version_whose_bytes_are_lost_can_still_be_put_away_and_rejected(
    registry: Running, cleo: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    waiting = await ask(cleo)
    registry.artifacts.path(waiting.digest).unlink()
    assert (await decide(bob, waiting, grant=False)).state == "rejected"
    assert (await promote(cleo, A)).state == "executed"


async def test_the_archive_opens_to_staging_and_development_only(cleo: RegistryServiceStub) -> None:
    await promote(cleo, A)
    await refused("archived", promote(cleo, P))
    await promote(cleo, S, from_stage=A)
    await promote(cleo, P)
    await refused("already_in_stage", promote(cleo, P))


async def test_a_stage_holds_several_versions_and_shows_the_one_promoted_last(
    ada: RegistryServiceStub, cleo: RegistryServiceStub
) -> None:
    await ada.CreateVersion(pb.CreateVersionRequest(model_id="fraud", version=spec("2.0.0")))
    await promote(cleo, P, "2.0.0")
    await promote(cleo, P, "1.0.0")
    model = (await cleo.GetModel(pb.GetModelRequest(model_id="fraud"))).model
    assert dict(model.stage_versions) == {"production": "1.0.0"}
    assert await stage(cleo, "2.0.0") == P
    await promote(cleo, A, "1.0.0")
    model = (await cleo.GetModel(pb.GetModelRequest(model_id="fraud"))).model
    assert dict(model.stage_versions) == {"production": "2.0.0", "archived": "1.0.0"}


async def test_the_same_request_id_promotes_once(registry: Running, cleo: RegistryServiceStub) -> None:
    first = await promote(cleo, P, from_stage=S, request_id="r1")
    assert await promote(cleo, P, from_stage=S, request_id="r1") == first
    await refused("request_id_reused", promote(cleo, A, from_stage=S, request_id="r1"))
    await refused("stale_stage", promote(cleo, P, from_stage=S))
    assert len(await registry.events("StageChanged")) == 1


async def test_the_same_request_id_decides_once(cleo: RegistryServiceStub, bob: RegistryServiceStub) -> None:
    waiting = await ask(cleo)
    first = await decide(bob, waiting, request_id="d1")
    assert await decide(bob, waiting, request_id="d1") == first
    await refused("request_id_reused", decide(bob, waiting, grant=False, request_id="d1"))


async def test_approvals_are_listed_by_state_and_model_in_pages(
    ada: RegistryServiceStub, cleo: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    for version in ("2", "3"):
        await ada.CreateVersion(pb.CreateVersionRequest(model_id="fraud", version=spec(version)))
    waiting = [await ask(cleo, version=version, from_stage=0) for version in ("1.0.0", "2", "3")]
    await decide(bob, waiting[0])

    async def listed(**fields: Any) -> list[str]:
        answer = await cleo.ListApprovals(pb.ListApprovalsRequest(**fields))
        return [each.version for each in answer.promotions]

    assert await listed() == ["3", "2"]
    assert await listed(state="executed") == ["1.0.0"]
    assert await listed(state="all") == ["3", "2", "1.0.0"]
    assert await listed(state="all", model_id="churn") == []
    page = await cleo.ListApprovals(pb.ListApprovalsRequest(state="all", page_size=2))
    assert await listed(state="all", page_size=2, page_token=page.next_page_token) == ["1.0.0"]
    await refused("invalid_request", listed(state="maybe"))


async def test_what_does_not_exist_is_not_found(cleo: RegistryServiceStub, bob: RegistryServiceStub) -> None:
    await refused("version_not_found", promote(cleo, P, "9"))
    await refused("promotion_not_found", cleo.GetPromotion(pb.GetPromotionRequest(promotion_id="p")))
    await refused("promotion_not_found", decide(bob, model_pb.Promotion(promotion_id="p")))
    missing = pb.PromoteModelRequest(model_id="nothing", version="1", to_stage=P)
    await refused("model_not_found", cleo.PromoteModel(missing))
