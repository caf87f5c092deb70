"""gRPC in: phantom.pipelines.v1.PipelineService. Wire to values, one call, values to wire."""

# ruff: noqa: N802 - the methods are called as the proto names them

from __future__ import annotations

from typing import Any

from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1 import pipeline_service_pb2_grpc as pb_grpc
from phantom_pipelines import converters as convert
from phantom_pipelines.domain import pages
from phantom_pipelines.domain.execution import Execution
from phantom_pipelines.service import Executions, Pipelines, Suites, Testing

SERVICE = "phantom.pipelines.v1.PipelineService"
Context = Any


class PipelinesRpc(pb_grpc.PipelineServiceServicer):
    """The door. Errors are mapped, and requests validated, by the platform's server."""

    def __init__(
        self, pipelines: Pipelines, executions: Executions, suites: Suites, testing: Testing
    ) -> None:
        self._pipelines = pipelines
        self._executions = executions
        self._suites = suites
        self._testing = testing

    async def CreatePipeline(
        self, request: pb.CreatePipelineRequest, context: Context
    ) -> pb.CreatePipelineResponse:
        made = await self._pipelines.create(convert.to_call(request), request.name, request.description)
        return pb.CreatePipelineResponse(pipeline=convert.from_pipeline(made))

    async def AddStage(self, request: pb.AddStageRequest, context: Context) -> pb.AddStageResponse:
        call, stage = convert.to_call(request), convert.to_stage(request.stage)
        after = await self._pipelines.add_stage(call, request.pipeline_id, stage)
        return pb.AddStageResponse(pipeline=convert.from_pipeline(after))

    async def GetPipeline(self, request: pb.GetPipelineRequest, context: Context) -> pb.GetPipelineResponse:
        found = await self._pipelines.get(convert.workspace(request), request.pipeline_id)
        return pb.GetPipelineResponse(pipeline=convert.from_pipeline(found))

    async def ListPipelines(
        self, request: pb.ListPipelinesRequest, context: Context
    ) -> pb.ListPipelinesResponse:
        workspace = convert.workspace(request)
        page = pages.page(request.page_size, request.page_token, "pipelines", workspace)
        found = await self._pipelines.list_pipelines(workspace, page)
        token = pages.token(found.last, "pipelines", workspace)
        return pb.ListPipelinesResponse(
            pipelines=map(convert.from_pipeline, found.items), next_page_token=token
        )

    async def ExecutePipeline(
        self, request: pb.ExecutePipelineRequest, context: Context
    ) -> pb.ExecutePipelineResponse:
        begun = await self._executions.execute(convert.to_call(request), convert.to_order(request))
        return pb.ExecutePipelineResponse(execution=convert.from_execution(begun))

    async def GetExecution(
        self, request: pb.GetExecutionRequest, context: Context
    ) -> pb.GetExecutionResponse:
        workspace = convert.workspace(request)
        found = await self._executions.get(workspace, request.execution_id)
        logs = await self._executions.logs(workspace, request.execution_id)
        return pb.GetExecutionResponse(execution=convert.from_execution(found, logs))

    async def ListExecutions(
        self, request: pb.ListExecutionsRequest, context: Context
    ) -> pb.ListExecutionsResponse:
        workspace = convert.workspace(request)
        filters = ("executions", workspace, request.pipeline_id)
        page = pages.page(request.page_size, request.page_token, *filters)
        found = await self._executions.list_executions(workspace, page, request.pipeline_id)
        executions = map(convert.from_execution, found.items)
        return pb.ListExecutionsResponse(
            executions=executions, next_page_token=pages.token(found.last, *filters)
        )

    async def CancelExecution(
        self, request: pb.CancelExecutionRequest, context: Context
    ) -> pb.CancelExecutionResponse:
        call = convert.to_call(request)
        after: Execution = await self._executions.cancel(call, request.execution_id, request.reason)
        return pb.CancelExecutionResponse(execution=convert.from_execution(after))

    async def DecideApproval(
        self, request: pb.DecideApprovalRequest, context: Context
    ) -> pb.DecideApprovalResponse:
        after = await self._executions.decide(
            convert.to_call(request),
            request.execution_id,
            request.stage,
            approve=request.approve,
            comment=request.comment,
        )
        return pb.DecideApprovalResponse(execution=convert.from_execution(after))

    async def CreateTestSuite(
        self, request: pb.CreateTestSuiteRequest, context: Context
    ) -> pb.CreateTestSuiteResponse:
        made = await self._suites.create(convert.to_call(request), convert.to_suite(request.suite))
        return pb.CreateTestSuiteResponse(suite=convert.from_suite(made))

    async def ListTestSuites(
        self, request: pb.ListTestSuitesRequest, context: Context
    ) -> pb.ListTestSuitesResponse:
        workspace = convert.workspace(request)
        page = pages.page(request.page_size, request.page_token, "suites", workspace)
        found = await self._suites.list_suites(workspace, page)
        token = pages.token(found.last, "suites", workspace)
        return pb.ListTestSuitesResponse(suites=map(convert.from_suite, found.items), next_page_token=token)

    async def RunTests(self, request: pb.RunTestsRequest, context: Context) -> pb.RunTestsResponse:
        tested = await self._testing.run(convert.to_call(request), convert.to_test_order(request))
        return pb.RunTestsResponse(passed=tested.passed, runs=map(convert.from_run, tested.runs))
