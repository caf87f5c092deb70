"""From a request to the end of an execution, over gRPC, with the executor behind."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.json_format import MessageToDict

from phantom.options.v1 import options_pb2
from phantom.pipelines.v1 import pipeline_pb2
from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines.runners.runner import StageContext, StageResult
from phantom_pipelines.tests.conftest import Running, executed, made, refused, stage
from phantom_pipelines.tests.fakes import Counted, for_ever
from phantom_platform.errors import Refused, Unavailable
from phantom_platform.testing.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


async def test_stages_run_one_after_the_other_and_leave_their_results_logs_and_events(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    pipelines.script.plays["first"] = Counted("scan", "speed")
    await pipelines.start_executor()
    execution_id = await executed(ada, await made(ada, stage("first"), stage("second")), trigger="automated")
    done = await pipelines.reaches(ada, execution_id, "succeeded")
    assert (done.progress, done.trigger, done.created_by) == (100.0, "automated", "ada")
    assert pipelines.script.ran == ["first", "second"]
    assert [each.phase for each in done.stages] == ["succeeded", "succeeded"]
    assert MessageToDict(done.stages[0].result) == {"scan": {"number": 1}, "speed": {"number": 1}}
    assert [line.text for line in done.stages[0].logs] == [
        "scan is finished",
        "speed is finished",
        "2 checks",
    ]
    assert done.stages[0].attempts == 1
    events = await pipelines.events()
    assert [each["number"] for each in events] == list(range(1, len(events) + 1))
    assert {each["key"] for each in events} == {f"default/{execution_id}"}
    assert [(e.get("stage", ""), e["from_phase"], e["to_phase"]) for e in events] == [
        ("first", "pending", "running"),
        ("", "pending", "running"),
        ("first", "running", "succeeded"),
        ("second", "pending", "running"),
        ("second", "running", "succeeded"),
        ("", "running", "succeeded"),
    ]
    assert [each["actor"] for each in events] == ["ada", "ada", *["pipelines"] * 4]


async def test_a_failed_stage_ends_the_execution_and_skips_the_rest(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def fail(context: StageContext) -> StageResult:
        await context.check("accuracy", _answer)
        return StageResult(False, "accuracy_too_low", "accuracy 0.81 is below 0.85", {"least": 0.85})

    pipelines.script.plays["second"] = fail
    await pipelines.start_executor()
    execution_id = await executed(ada, await made(ada, stage("first"), stage("second"), stage("third")))
    done = await pipelines.reaches(ada, execution_id, "failed")
    assert (done.reason_code, done.current_stage) == ("accuracy_too_low", "second")
    assert done.reason == "stage second failed: accuracy 0.81 is below 0.85"
    assert [each.phase for each in done.stages] == ["succeeded", "failed", "skipped"]
    assert MessageToDict(done.stages[1].result) == {"accuracy": {"value": 0.81}, "least": 0.85}
    assert done.progress == pytest.approx(100 / 3)


async def _answer() -> dict[str, float]:
    return {"value": 0.81}


async def test_an_error_with_a_code_fails_the_stage_with_it_and_a_bug_is_called_one(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def refuse(context: StageContext) -> StageResult:
        raise Refused("no dataset has role evaluation", code="no_evaluation_dataset")

    async def break_down(context: StageContext) -> StageResult:
        raise ZeroDivisionError("oops")

    pipelines.script.plays = {"refuses": refuse, "breaks": break_down}
    await pipelines.start_executor()
    codes = {}
    for name in ("refuses", "breaks"):
        execution_id = await executed(ada, await made(ada, stage(name), name=name))
        codes[name] = (await pipelines.reaches(ada, execution_id, "failed")).reason_code
    assert codes == {"refuses": "no_evaluation_dataset", "breaks": "internal"}


async def test_what_is_away_for_a_moment_only_delays_a_stage(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    counted = Counted("once")

    async def wait_for_the_registry(context: StageContext) -> StageResult:
        result = await counted(context)
        if context.facts.attempt == 1:
            raise Unavailable("the registry is away")
        return result

    pipelines.script.plays["first"] = wait_for_the_registry
    await pipelines.start_executor()
    execution_id = await executed(ada, await made(ada, stage("first")))
    done = await pipelines.reaches(ada, execution_id, "succeeded")
    assert counted.counts == {"once": 1}
    assert (done.stages[0].attempts, [line.level for line in done.stages[0].logs]) == (
        2,
        ["info", "warning", "info"],
    )


async def test_progress_counts_ended_stages_and_the_running_ones_own_share(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    async def half(context: StageContext) -> StageResult:
        await context.progress(0.5)
        await context.progress(0.2)
        return await for_ever(context)

    pipelines.script.plays["second"] = half
    await pipelines.start_executor()
    execution_id = await executed(ada, await made(ada, stage("first"), stage("second")))

    async def three_quarters() -> bool:
        found = await pipelines.execution(ada, execution_id)
        return found.progress == 75.0 and found.current_stage == "second"

    await until(three_quarters)


async def test_only_so_many_run_at_once_the_oldest_first_and_a_cancelled_one_needs_no_turn(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    hold = asyncio.Event()

    async def held(context: StageContext) -> StageResult:
        order.append(context.facts.execution_id)
        await hold.wait()
        return StageResult(True)

    order: list[str] = []
    pipelines.script.plays["first"] = held
    pipeline_id = await made(ada, stage("first"))
    ids = [await executed(ada, pipeline_id) for _ in range(3)]
    await pipelines.start_executor(concurrency=1)
    await until(lambda: order)
    await ada.CancelExecution(pb.CancelExecutionRequest(execution_id=ids[1]))
    await pipelines.reaches(ada, ids[1], "cancelled")
    assert order == ids[:1]
    hold.set()
    await pipelines.reaches(ada, ids[2], "succeeded")
    assert order == [ids[0], ids[2]]


async def test_the_same_request_id_executes_once(pipelines: Running, ada: PipelineServiceStub) -> None:
    pipeline_id = await made(ada, stage("first"))
    first = await executed(ada, pipeline_id, request_id="r1")
    assert await executed(ada, pipeline_id, request_id="r1") == first
    assert await executed(ada, pipeline_id) != first
    await refused("request_id_reused", _execute(ada, pipeline_id, version="1.1.0", request_id="r1"))


async def test_an_execution_keeps_the_stages_and_the_version_it_began_with(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    pipelines.script.plays["first"] = for_ever
    pipeline_id = await made(ada, stage("first"))
    execution_id = await executed(ada, pipeline_id, version="")
    pipelines.models.versions.append("9.0.0")
    await ada.AddStage(pb.AddStageRequest(pipeline_id=pipeline_id, stage=stage("second")))
    found = await pipelines.execution(ada, execution_id)
    assert (found.model_version, [each.name for each in found.stages]) == ("1.1.0", ["first"])


@pytest.mark.parametrize(
    ("code", "wanted", "options"),
    [
        ("pipeline_empty", [], {}),
        ("version_not_found", [stage("a")], {"version": "7"}),
        ("environment_not_found", [stage("a", "deployment", environment="moon")], {}),
        ("test_suite_not_found", [stage("a", "testing", environment="staging", test_suite="none")], {}),
        ("dataset_not_found", [stage("a", dataset="none")], {}),
        ("environment_not_found", [stage("a", replay={"requests": 9, "environment": "moon"})], {}),
        ("deployment_not_found", [stage("a", replay={"requests": 9, "endpoint": "none"})], {}),
        (
            "dataset_not_found",
            [stage("a", "testing", environment="staging", test_suite="smoke", test_data="none")],
            {},
        ),
        ("deployment_not_found", [stage("a", "testing", test_suite="smoke", endpoint="none")], {}),
        ("only_approver_is_requester", [stage("a", "approval", approvers=["ada"])], {}),
    ],
)
async def test_what_a_stage_names_must_exist(
    pipelines: Running,
    ada: PipelineServiceStub,
    code: str,
    wanted: list[pipeline_pb2.Stage],
    options: dict[str, str],
) -> None:
    suite = pipeline_pb2.TestSuite(name="smoke", dataset="cases")
    await ada.CreateTestSuite(pb.CreateTestSuiteRequest(suite=suite))
    pipeline_id = await made(ada, *wanted)
    await refused(code, _execute(ada, pipeline_id, **options))
    assert (await ada.ListExecutions(pb.ListExecutionsRequest())).executions == []


async def test_what_a_stage_before_deploys_need_not_be_there_yet(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    suite = pipeline_pb2.TestSuite(name="smoke", dataset="cases")
    await ada.CreateTestSuite(pb.CreateTestSuiteRequest(suite=suite))
    deploys = stage("deploy", "deployment", environment="staging", deployment_id="new")
    await executed(ada, await made(ada, deploys, stage("t", "testing", test_suite="smoke", endpoint="new")))


async def test_names_that_nobody_has_are_not_found(pipelines: Running, ada: PipelineServiceStub) -> None:
    pipeline_id = await made(ada, stage("first"))
    await refused("pipeline_not_found", _execute(ada, "none"))
    await refused(
        "model_not_found",
        ada.ExecutePipeline(pb.ExecutePipelineRequest(pipeline_id=pipeline_id, model_id="none")),
    )
    await refused("execution_not_found", ada.GetExecution(pb.GetExecutionRequest(execution_id="none")))
    await refused("execution_not_found", ada.CancelExecution(pb.CancelExecutionRequest(execution_id="none")))


async def test_a_workspace_sees_its_own_only(pipelines: Running, ada: PipelineServiceStub) -> None:
    execution_id = await executed(ada, await made(ada, stage("first")))
    token = pipelines.issuer.token("eve", "pipelines:*", workspaces=("other",))
    metadata = (("authorization", f"Bearer {token}"), ("phantom-workspace", "other"))
    await refused(
        "execution_not_found",
        ada.GetExecution(pb.GetExecutionRequest(execution_id=execution_id), metadata=metadata),
    )


async def test_executions_are_listed_newest_first_by_pages(
    pipelines: Running, ada: PipelineServiceStub
) -> None:
    one, other = await made(ada, stage("a"), name="one"), await made(ada, stage("a"), name="other")
    ids = [await executed(ada, one) for _ in range(3)]
    await executed(ada, other)
    first = await ada.ListExecutions(pb.ListExecutionsRequest(pipeline_id="one", page_size=2))
    assert [each.execution_id for each in first.executions] == [ids[2], ids[1]]
    rest = await ada.ListExecutions(
        pb.ListExecutionsRequest(pipeline_id="one", page_size=2, page_token=first.next_page_token)
    )
    assert [each.execution_id for each in rest.executions] == [ids[0]]
    assert rest.next_page_token == ""
    await refused(
        "invalid_page_token",
        ada.ListExecutions(pb.ListExecutionsRequest(page_token=first.next_page_token)),
    )


async def test_every_mutating_call_is_audited_and_so_is_a_refused_one(
    pipelines: Running, ada: PipelineServiceStub, bob: PipelineServiceStub
) -> None:
    execution_id = await executed(ada, await made(ada, stage("gate", "approval"), stage("first")))
    await bob.DecideApproval(pb.DecideApprovalRequest(execution_id=execution_id, approve=True))
    await ada.CancelExecution(pb.CancelExecutionRequest(execution_id=execution_id))
    suite = pipeline_pb2.TestSuite(name="smoke", dataset="cases")
    await ada.CreateTestSuite(pb.CreateTestSuiteRequest(suite=suite))
    pipelines.deployments.add("fraud-staging")
    await ada.RunTests(pb.RunTestsRequest(suite="smoke", environment="staging"))
    await refused("pipeline_exists", ada.CreatePipeline(pb.CreatePipelineRequest(name="line")))
    audits = await pipelines.audits()
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    mutating = {m.name for m in service.methods if m.GetOptions().Extensions[options_pb2.access].mutates}
    assert {each["action"].rsplit("/", 1)[-1] for each in audits if each["outcome"] == "ok"} == mutating
    assert [each["error_code"] for each in audits if each["outcome"] == "refused"] == ["pipeline_exists"]
    assert all(each["resource"] for each in audits)


async def test_reading_needs_a_permission_and_so_does_running(pipelines: Running) -> None:
    reader = await pipelines.client("rita", "pipelines:read")
    await refused("permission_missing", reader.CreatePipeline(pb.CreatePipelineRequest(name="x")))
    writer = await pipelines.client("will", "pipelines:write")
    pipeline_id = await made(writer, stage("first"))
    await refused("permission_missing", _execute(writer, pipeline_id))
    assert len((await reader.ListPipelines(pb.ListPipelinesRequest())).pipelines) == 1


async def test_a_pipeline_lends_nobody_the_right_to_deploy(pipelines: Running) -> None:
    runner = await pipelines.client("rob", "pipelines:*")
    deploys = await made(runner, stage("deploy", "deployment", environment="staging"), name="deploys")
    error = await refused("permission_missing", _execute(runner, deploys))
    assert "models:deploy" in error.message
    await _execute(runner, await made(runner, stage("first"), name="checks"))


async def _execute(stub: PipelineServiceStub, pipeline_id: str, **options: str) -> object:
    request = pb.ExecutePipelineRequest(
        pipeline_id=pipeline_id, model_id="fraud", **{"version": "1.0.0", **options}
    )
    return await stub.ExecutePipeline(request)
