"""`DeploymentPipeline` and `TestSuites`: take a version through validation, build, tests and deployments by itself."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

from phantom.pipelines.v1 import pipeline_pb2 as messages
from phantom.pipelines.v1 import pipeline_service_pb2 as rpc
from phantom.pipelines.v1 import pipeline_service_pb2_grpc as stubs
from phantom_ml_studio.checks import Reader
from phantom_ml_studio.client import Client, new_request_id
from phantom_ml_studio.pipeline_values import Execution, Pipeline, TestResult, TestSuite
from phantom_ml_studio.waiting import changes

STAGE_TYPES = ("validation", "containerization", "deployment", "testing", "approval")
# Beyond the time that a run of tests has, s: for the answer to arrive.
_SLACK_S = 15.0


class DeploymentPipeline:
    """Pipelines and their executions. Raises the errors of `phantom_ml_studio.errors`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = stubs.PipelineServiceStub(client.channel)

    def create(self, name: str, description: str = "", request_id: str | None = None) -> Pipeline:
        """An empty pipeline. Errors: AlreadyExists `pipeline_exists`."""
        request = rpc.CreatePipelineRequest(
            name=name, description=description, request_id=new_request_id(request_id)
        )
        return Pipeline.of(self._client.call(self._stub.CreatePipeline, request).pipeline)

    def add_stage(
        self, pipeline_id: str, stage: Mapping[str, Any], request_id: str | None = None
    ) -> Pipeline:
        """Append a stage {name, type, config}; docs/pipelines.md lists the config of each type.

        Executions that run keep the stages they began with. Errors: Invalid `invalid_stage`, naming each wrong key;
        AlreadyExists `stage_exists`; NotFound `pipeline_not_found`.
        """
        request = rpc.AddStageRequest(
            pipeline_id=pipeline_id, stage=_stage(stage), request_id=new_request_id(request_id)
        )
        return Pipeline.of(self._client.call(self._stub.AddStage, request).pipeline)

    def get(self, pipeline_id: str) -> Pipeline:
        """By id or name. Errors: NotFound `pipeline_not_found`."""
        request = rpc.GetPipelineRequest(pipeline_id=pipeline_id)
        return Pipeline.of(self._client.call(self._stub.GetPipeline, request).pipeline)

    def list(self) -> builtins.list[Pipeline]:
        """Every pipeline."""
        pages = self._client.pages(self._stub.ListPipelines, rpc.ListPipelinesRequest(), "pipelines")
        return [Pipeline.of(p) for p in pages]

    def execute(
        self,
        pipeline_id: str,
        model_id: str,
        version: str = "",
        trigger: str = "manual",
        request_id: str | None = None,
    ) -> Execution:
        """Send a version (the newest where not named) through the pipeline. Returns at once.

        Errors: NotFound `pipeline_not_found`, `model_not_found`, `version_not_found`; Refused `pipeline_empty`,
        `test_suite_not_found`, `dataset_not_found`.
        """
        request = rpc.ExecutePipelineRequest(
            pipeline_id=pipeline_id,
            model_id=model_id,
            version=version,
            trigger=trigger,
            request_id=new_request_id(request_id),
        )
        return Execution.of(self._client.call(self._stub.ExecutePipeline, request).execution)

    def get_execution_status(self, execution_id: str) -> Execution:
        """`.phase`, `.current_stage`, `.progress` (0 to 100), `.stages` with logs, durations and results.

        Errors: NotFound `execution_not_found`.
        """
        request = rpc.GetExecutionRequest(execution_id=execution_id)
        return Execution.of(self._client.call(self._stub.GetExecution, request).execution)

    def list_executions(self, pipeline_id: str = "") -> builtins.list[Execution]:
        """Newest first, of one pipeline where named."""
        request = rpc.ListExecutionsRequest(pipeline_id=pipeline_id)
        pages = self._client.pages(self._stub.ListExecutions, request, "executions")
        return [Execution.of(e) for e in pages]

    def watch(self, execution_id: str, timeout_s: float | None = None) -> Iterator[Execution]:
        """The execution as it is, then at each change, until it has ended. Errors: TimedOut `execution_not_ended`."""
        return changes(lambda: self.get_execution_status(execution_id), timeout_s, "execution_not_ended")

    def wait(
        self,
        execution_id: str,
        timeout_s: float | None = None,
        on_change: Callable[[Execution], object] | None = None,
    ) -> Execution:
        """Wait until it has ended, well or badly (`phase` says); `on_change` is told each change.

        Errors: TimedOut `execution_not_ended`; the execution goes on all the same.
        """
        for execution in self.watch(execution_id, timeout_s):
            if on_change is not None:
                on_change(execution)
            found = execution
        return found

    def cancel(self, execution_id: str, reason: str = "", request_id: str | None = None) -> Execution:
        """End what runs, in order; a deployment in progress is rolled back. Errors: Refused `execution_ended`."""
        request = rpc.CancelExecutionRequest(
            execution_id=execution_id, reason=reason, request_id=new_request_id(request_id)
        )
        return Execution.of(self._client.call(self._stub.CancelExecution, request).execution)

    def approve(
        self, execution_id: str, stage: str | None = None, comment: str = "", request_id: str | None = None
    ) -> Execution:
        """Let the stage begin that waits. Errors: Refused `not_waiting_for_approval`, `already_decided`,
        `approval_expired`; Forbidden `not_an_approver`, `requester_cannot_approve`.
        """
        return self._decide(execution_id, True, stage, comment, request_id)

    def reject(
        self, execution_id: str, stage: str | None = None, comment: str = "", request_id: str | None = None
    ) -> Execution:
        """Refuse the stage that waits: the execution fails. Errors: as `approve`."""
        return self._decide(execution_id, False, stage, comment, request_id)

    def _decide(
        self, execution_id: str, approve: bool, stage: str | None, comment: str, request_id: str | None
    ) -> Execution:
        request = rpc.DecideApprovalRequest(
            execution_id=execution_id,
            stage=stage or "",
            approve=approve,
            comment=comment,
            request_id=new_request_id(request_id),
        )
        return Execution.of(self._client.call(self._stub.DecideApproval, request).execution)


class TestSuites:
    """Named suites of cases, and running them. Raises the errors of `phantom_ml_studio.errors`."""

    __test__ = False  # nothing for pytest to collect

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = stubs.PipelineServiceStub(client.channel)

    def create(
        self,
        name: str,
        dataset: str,
        *,
        dataset_version: str = "",
        expected_column: str = "",
        tolerance: float = 0.0,
        id_column: str = "",
        max_cases: int = 0,
        description: str = "",
        request_id: str | None = None,
    ) -> TestSuite:
        """Cases are the rows of a registered dataset (its newest version where not named).

        `expected_column` (the model schema's outcome field where empty) holds the expected label or value; a number
        passes within `tolerance`; 0 `max_cases` runs all. Errors: AlreadyExists `test_suite_exists`; NotFound
        `dataset_not_found`.
        """
        suite = messages.TestSuite(
            name=name,
            dataset=dataset,
            dataset_version=dataset_version,
            expected_column=expected_column,
            tolerance=tolerance,
            id_column=id_column,
            max_cases=max_cases,
            description=description,
        )
        request = rpc.CreateTestSuiteRequest(suite=suite, request_id=new_request_id(request_id))
        return TestSuite.of(self._client.call(self._stub.CreateTestSuite, request).suite)

    def list(self) -> builtins.list[TestSuite]:
        """Every suite."""
        pages = self._client.pages(self._stub.ListTestSuites, rpc.ListTestSuitesRequest(), "suites")
        return [TestSuite.of(s) for s in pages]

    def run(
        self,
        suite: str,
        environment: str,
        *,
        endpoint: str = "",
        dataset: str = "",
        min_pass_rate: float = 0.0,
        timeout_s: float = 300.0,
        request_id: str | None = None,
    ) -> TestResult:
        """Run a suite (with or without the ending `_tests`) on every endpoint of the environment, or on one.

        `dataset` replaces the suite's; 0 `min_pass_rate` is 1: every case. Errors: NotFound `test_suite_not_found`,
        `environment_not_found`, `deployment_not_found`; Refused `no_endpoints`; TimedOut `tests_timed_out`.
        """
        request = rpc.RunTestsRequest(
            suite=suite,
            environment=environment,
            endpoint=endpoint,
            dataset=dataset,
            min_pass_rate=min_pass_rate,
            timeout_s=timeout_s,
            request_id=new_request_id(request_id),
        )
        response = self._client.call(self._stub.RunTests, request, timeout_s=timeout_s + _SLACK_S)
        return TestResult.of(response)


def _stage(given: Mapping[str, Any]) -> messages.Stage:
    keys = Reader(given, "stage", ("name", "type", "config"))
    name, kind = keys.text("name"), keys.choice("type", STAGE_TYPES, "")
    config = Struct()
    if not isinstance(given, Mapping) or not isinstance(given.get("config", {}), Mapping):
        keys.wrong("config", "a dictionary was expected")
    elif not keys.violations:
        try:
            config.update(json.loads(json.dumps(dict(given.get("config", {})), allow_nan=False)))
        except (TypeError, ValueError) as error:
            keys.wrong("config", f"only texts, numbers, truths, lists and dictionaries are possible: {error}")
    keys.refuse("this is no stage", "invalid_stage")
    return messages.Stage(name=name, type=kind, config=config)
