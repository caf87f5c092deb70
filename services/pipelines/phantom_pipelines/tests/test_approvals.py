"""Approvals: before the stage begins, by somebody else, in time, once."""

from __future__ import annotations

import pytest

from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines.tests.conftest import Running, executed, made, refused, stage
from phantom_platform.testing.clock import FakeClock

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


def decision(execution_id: str, *, approve: bool = True, **fields: str) -> pb.DecideApprovalRequest:
    return pb.DecideApprovalRequest(execution_id=execution_id, approve=approve, **fields)


async def waiting(pipelines: Running, stub: PipelineServiceStub, **config: object) -> str:
    """The id of an execution whose second stage waits for an approval; the executor runs."""
    await pipelines.start_executor()
    gated = stage("gated", approval_required=True, **config)
    execution_id = await executed(stub, await made(stub, stage("first"), gated))
    await pipelines.reaches(stub, execution_id, "waiting_for_approval")
    return execution_id


async def test_a_stage_waits_until_somebody_else_approves_it(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    execution_id = await waiting(pipelines, ada)
    found = await pipelines.execution(ada, execution_id)
    assert pipelines.script.ran == ["first"]
    assert (found.current_stage, found.reason_code) == ("gated", "approval_required")
    assert found.stages[1].phase == "waiting_for_approval"
    assert found.stages[1].approval.state == "waiting"
    approval = found.stages[1].approval
    age_s = approval.expires_at.seconds - found.created_at.seconds
    assert age_s == 86_400
    await bob.DecideApproval(decision(execution_id, comment="looks good"))
    done = await pipelines.reaches(ada, execution_id, "succeeded")
    approval = done.stages[1].approval
    assert (approval.state, approval.decided_by, approval.comment) == ("approved", "bob", "looks good")
    (event,) = await pipelines.events("ApprovalDecided")
    assert (event["actor"], event["decision"], event["stage"]) == ("bob", "approved", "gated")


async def test_the_time_spent_waiting_is_not_the_stages_own(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub, clock: FakeClock
) -> None:
    execution_id = await waiting(pipelines, ada)
    clock.advance(3600)
    await bob.DecideApproval(decision(execution_id))
    done = await pipelines.reaches(ada, execution_id, "succeeded")
    assert done.stages[1].duration_s < 60


async def test_a_rejected_stage_ends_the_execution_without_having_run(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    execution_id = await waiting(pipelines, ada)
    answer = await bob.DecideApproval(decision(execution_id, approve=False, comment="not on a Friday"))
    assert (answer.execution.phase, answer.execution.reason_code) == ("failed", "approval_rejected")
    assert answer.execution.reason == "stage gated failed: rejected by bob: not on a Friday"
    assert pipelines.script.ran == ["first"]


async def test_who_asked_cannot_approve_nor_reject(pipelines: Running, ada: PipelineServiceStub) -> None:
    execution_id = await waiting(pipelines, ada)
    await refused("requester_cannot_approve", ada.DecideApproval(decision(execution_id)))
    await refused("requester_cannot_approve", ada.DecideApproval(decision(execution_id, approve=False)))


async def test_only_the_named_may_decide(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    carol = await pipelines.client("carol@company.com")
    execution_id = await waiting(pipelines, ada, approvers=["ada", "carol@company.com"])
    error = await refused("not_an_approver", bob.DecideApproval(decision(execution_id)))
    assert "carol@company.com" in error.message
    await refused("requester_cannot_approve", ada.DecideApproval(decision(execution_id)))
    await carol.DecideApproval(decision(execution_id))
    await pipelines.reaches(ada, execution_id, "succeeded")


async def test_deciding_needs_a_permission_of_its_own(pipelines: Running, ada: PipelineServiceStub) -> None:
    execution_id = await waiting(pipelines, ada)
    runner = await pipelines.client("rob", "pipelines:run", "pipelines:read")
    await refused("permission_missing", runner.DecideApproval(decision(execution_id)))


async def test_a_second_decision_is_refused_naming_the_first(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    carol = await pipelines.client("carol")
    execution_id = await waiting(pipelines, ada)
    await bob.DecideApproval(decision(execution_id, request_id="once"))
    for stub, fields in (
        (carol, {}),
        (carol, {"stage": "gated", "approve": False}),
        (bob, {"request_id": "twice"}),
    ):
        error = await refused("already_decided", stub.DecideApproval(decision(execution_id, **fields)))
        assert "approved by bob" in error.message
    # The same request is answered as before.
    await bob.DecideApproval(decision(execution_id, request_id="once"))
    assert len(await pipelines.events("ApprovalDecided")) == 1


async def test_an_approval_that_nobody_gave_in_time_fails_the_execution(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub, clock: FakeClock
) -> None:
    execution_id = await waiting(pipelines, ada, approval_timeout=600)
    clock.advance(599)
    assert (await pipelines.execution(ada, execution_id)).phase == "waiting_for_approval"
    clock.advance(2)
    done = await pipelines.reaches(ada, execution_id, "failed")
    assert (done.reason_code, done.stages[1].approval.state) == ("approval_expired", "expired")
    await refused("approval_expired", bob.DecideApproval(decision(execution_id)))
    (event,) = await pipelines.events("ApprovalDecided")
    assert (event["decision"], event["actor"]) == ("expired", "pipelines")


async def test_an_overdue_approval_is_refused_also_before_anybody_wrote_it_down(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub, clock: FakeClock
) -> None:
    execution_id = await waiting(pipelines, ada, approval_timeout=600)
    await pipelines.stop_executors()
    clock.advance(601)
    await refused("approval_expired", bob.DecideApproval(decision(execution_id)))


async def test_a_stage_of_type_approval_is_nothing_but_one(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    await pipelines.start_executor()
    gate = stage("gate", "approval", approvers=["bob"], message="look at the report")
    execution_id = await executed(ada, await made(ada, gate, stage("after")))
    waits = await pipelines.reaches(ada, execution_id, "waiting_for_approval")
    assert waits.stages[0].HasField("started_at")
    await bob.DecideApproval(decision(execution_id, stage="gate"))
    done = await pipelines.reaches(ada, execution_id, "succeeded")
    assert pipelines.script.ran == ["after"]
    assert dict(done.stages[0].result.items()) == {"approved_by": "bob"}


async def test_where_nothing_waits_there_is_nothing_to_decide(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    execution_id = await executed(ada, await made(ada, stage("first")))
    await refused("not_waiting_for_approval", bob.DecideApproval(decision(execution_id)))
    await refused("not_waiting_for_approval", bob.DecideApproval(decision(execution_id, stage="first")))
    await refused("stage_not_found", bob.DecideApproval(decision(execution_id, stage="none")))


async def test_what_was_cancelled_while_it_waited_is_not_decided_any_more(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    execution_id = await waiting(pipelines, ada)
    await ada.CancelExecution(pb.CancelExecutionRequest(execution_id=execution_id))
    await refused("not_waiting_for_approval", bob.DecideApproval(decision(execution_id)))
