"""Deployment stages against a deployer behind real gRPC: what they ask for, what they wait for, what they take back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict

from phantom.deployer.v1 import rollout_pb2
from phantom.pipelines.v1 import pipeline_pb2
from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines.domain import configs
from phantom_pipelines.domain.configs.deployment import DeploymentConfig
from phantom_pipelines.remotes import GrpcDeployer
from phantom_pipelines.runners import rollout_request
from phantom_pipelines.runners.deployment import DeploymentRunner
from phantom_pipelines.service import Progression
from phantom_pipelines.tests.conftest import Running, executed, made, stage
from phantom_pipelines.tests.fake_deployer import FakeDeployer, at
from phantom_pipelines.tests.test_crashes import Dying
from phantom_platform.errors import Refused, Unavailable
from phantom_platform.rpc import control_channel
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.identity import FixedToken
from phantom_platform.testing.rpc import serving
from phantom_platform.testing.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


class Line:
    """A pipeline of one deployment stage into staging."""

    def __init__(self, pipelines: Running, stub: PipelineServiceStub, runner: DeploymentRunner) -> None:
        self.pipelines = pipelines
        self.stub = stub
        self.runner = runner
        self.execution_id = ""

    async def begin(self, progression: Progression | None = None, **config: Any) -> None:
        """Version 1.1.0 is on its way."""
        self.pipelines.deployments.names = ["staging"]
        deploy = stage("deploy", "deployment", **{"environment": "staging", **config})
        pipeline_id = await made(self.stub, deploy)
        self.execution_id = await executed(self.stub, pipeline_id, version="1.1.0")
        await self.go_on(progression)

    async def go_on(self, progression: Progression | None = None) -> None:
        await self.pipelines.start_executor({"deployment": self.runner}, progression)

    async def ends(self, *phases: str) -> pipeline_pb2.StageStatus:
        """The stage, when the execution has ended so."""
        done = await self.pipelines.reaches(self.stub, self.execution_id, *phases)
        return done.stages[0]

    async def cancel(self) -> None:
        await self.stub.CancelExecution(pb.CancelExecutionRequest(execution_id=self.execution_id))


@pytest.fixture
def deployer() -> FakeDeployer:
    return FakeDeployer()


@pytest_asyncio.fixture(loop_scope="session")
async def line(pipelines: Running, ada: PipelineServiceStub, deployer: FakeDeployer) -> AsyncIterator[Line]:
    token = FixedToken(pipelines.issuer.token("pipelines", "*"))
    async with (
        serving(*deployer.servicers(), verifier=pipelines.issuer.verifier) as server,
        control_channel(server.address, token) as channel,
    ):
        yield Line(pipelines, ada, DeploymentRunner(GrpcDeployer(channel), poll_s=0.02))
        await pipelines.stop_executors()


def result(status: pipeline_pb2.StageStatus) -> dict[str, Any]:
    return MessageToDict(status.result)


# -- a first deployment ------------------------------------------------------------


async def test_where_nothing_serves_the_model_it_is_deployed_and_waited_for(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.first_phase = "pending"
    await line.begin(replicas=2)
    await until(lambda: deployer.deployments)
    deployer.deployments["fraud-staging"].phase = "ready"
    done = await line.ends("succeeded")
    found = result(done)
    assert (found["deployment_id"], found["version"], found["served_before"]) == (
        "fraud-staging",
        "1.1.0",
        "",
    )
    assert deployer.rollouts == {}


@pytest.mark.parametrize(("rolls_back", "deleted"), [(True, ["fraud-staging"]), (False, [])])
async def test_a_first_deployment_that_fails_is_taken_away_unless_it_is_to_stay(
    line: Line, deployer: FakeDeployer, rolls_back: bool, deleted: list[str]
) -> None:
    deployer.first_phase = "failed"
    await line.begin(rollback_on_failure=rolls_back)
    done = await line.ends("failed")
    assert (done.reason_code, deployer.deleted) == ("deployment_failed", deleted)


async def test_one_that_is_not_ready_in_time_fails(
    line: Line, deployer: FakeDeployer, clock: FakeClock
) -> None:
    deployer.first_phase = "pending"
    await line.begin(health_check_timeout=300)
    await until(lambda: deployer.deployments)
    clock.advance(301)
    done = await line.ends("failed")
    assert (done.reason_code, deployer.deleted) == ("health_check_timeout", ["fraud-staging"])
    assert "not ready after 300 s" in done.reason


async def test_one_that_somebody_else_made_meanwhile_is_left_to_them(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.before_answer = lambda: deployer.serve("1.0.0")
    await line.begin()
    done = await line.ends("failed")
    assert (done.reason_code, deployer.dropped) == ("deployed_meanwhile", ["fraud-staging"])


async def test_the_same_version_that_somebody_else_deployed_meanwhile_is_theirs_too(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.before_answer = lambda: deployer.serve("1.1.0")
    await line.begin()
    done = await line.ends("failed")
    assert (done.reason_code, deployer.dropped) == ("deployed_meanwhile", ["fraud-staging"])
    assert not deployer.deleted


async def test_a_version_that_is_served_already_needs_nothing(line: Line, deployer: FakeDeployer) -> None:
    deployer.serve("1.1.0")
    await line.begin()
    done = await line.ends("succeeded")
    assert result(done)["served_before"] == "1.1.0"
    assert (deployer.rollouts, deployer.answers) == ({}, {})


# -- rollouts ----------------------------------------------------------------------


async def test_a_rollout_is_followed_to_its_end_with_its_transitions_as_log_lines(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.serve("1.0.0")
    deployer.course = [
        at("progressing", 5, "candidate is ready"),
        at(
            "progressing",
            5,
            "candidate is ready",
            warnings=["1000 requests cannot show a doubled error rate"],
        ),
        at("succeeded", 100, "all steps passed", requests=1234),
    ]
    await line.begin(strategy="canary", canary_percentage=5, canary_duration=60)
    done = await line.ends("succeeded")
    found = result(done)
    assert (found["served_before"], found["version"], found["requests"]) == ("1.0.0", "1.1.0", 1234)
    assert [each.text for each in done.logs] == [
        "rollout r0 brings 1.1.0 into fraud-staging by canary",
        "pending → progressing at 5 %: candidate is ready",
        "1000 requests cannot show a doubled error rate",
        "pending → succeeded at 100 %: all steps passed",
        "fraud-staging serves 1.1.0",
    ]
    asked = deployer.asked["r0"]
    assert asked.request_id == f"{line.execution_id}/deploy"
    assert (asked.on_behalf_of, asked.deployment_id, asked.version) == ("ada", "fraud-staging", "1.1.0")


@pytest.mark.parametrize(
    ("last", "code", "words"),
    [
        (
            at("rolled_back", 0, "log loss is worse by 0.11 to 0.2", fired_criterion="log_loss"),
            "rolled_back",
            "rolled_back on log_loss: log loss is worse by 0.11 to 0.2",
        ),
        (at("failed", 0, "not ready after 600 s"), "rollout_failed", "not ready after 600 s"),
        (at("superseded", 5, "by rollout x"), "rollout_superseded", "by rollout x"),
    ],
)
async def test_a_rollout_that_does_not_succeed_fails_the_stage_with_what_fired(
    line: Line, deployer: FakeDeployer, last: rollout_pb2.Rollout, code: str, words: str
) -> None:
    deployer.serve("1.0.0")
    deployer.course = [at("progressing", 5), last]
    await line.begin(strategy="canary")
    done = await line.ends("failed")
    assert done.reason_code == code
    assert words in done.reason
    assert result(done)["fired_criterion"] == last.fired_criterion


async def test_without_rollback_a_failed_judgement_ends_the_stage_and_leaves_the_rollout_paused(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.serve("1.0.0")
    verdict = rollout_pb2.Verdict(verdict="fail")
    deployer.course = [at("paused", 5, "no traffic"), at("paused", 5, "errors doubled", verdict=verdict)]
    await line.begin(strategy="canary", rollback_on_failure=False)
    done = await line.ends("failed")
    assert (done.reason_code, deployer.rollouts["r0"].state) == ("rollout_stopped", "paused")
    assert result(done)["verdict"] == {"verdict": "fail"}
    assert not deployer.asked["r0"].spec.auto_rollback.enabled


async def test_a_rollout_that_the_deployer_refuses_fails_the_stage_with_its_code(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.serve("1.0.0")
    deployer.failing["CreateRollout"] = [Refused("rollout r7 is live", code="rollout_live")]
    await line.begin()
    assert (await line.ends("failed")).reason_code == "rollout_live"


async def test_a_deployer_that_is_away_for_a_moment_is_waited_for(line: Line, deployer: FakeDeployer) -> None:
    deployer.serve("1.0.0")
    away = Unavailable("restarting", retry_after_s=0.01)
    deployer.failing = {"GetRollout": [away, away], "CreateRollout": [away], "ListDeployments": [away]}
    deployer.course = [at("succeeded", 100)]
    await line.begin()
    done = await line.ends("succeeded")
    assert len(deployer.rollouts) == 1
    assert [each.text for each in done.logs if each.level == "warning"]


async def test_several_deployments_of_the_model_need_one_to_be_named(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.serve("1.0.0")
    deployer.serve("1.0.0", "fraud-eu")
    await line.begin()
    done = await line.ends("failed")
    assert done.reason_code == "deployment_ambiguous"
    assert "fraud-eu" in done.reason


async def test_the_deployment_that_is_named_is_meant(line: Line, deployer: FakeDeployer) -> None:
    deployer.serve("1.0.0")
    deployer.serve("1.0.0", "fraud-eu")
    deployer.course = [at("succeeded", 100)]
    await line.begin(deployment_id="fraud-eu")
    await line.ends("succeeded")
    assert deployer.asked["r0"].deployment_id == "fraud-eu"


# -- killed, and cancelled ---------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("serves", ["1.0.0", ""])
async def test_killed_around_what_it_asks_for_it_asks_once(
    line: Line, deployer: FakeDeployer, serves: str, nth: int, when: str
) -> None:
    """The checks are: what served before, that it asks, what it was answered."""
    if serves:
        deployer.serve(serves)
    deployer.course = [at("succeeded", 100)]
    dying = Dying(line.pipelines, "keep_check", nth, when)
    await line.begin(dying)
    await asyncio.wait_for(dying.died.wait(), 15)
    await line.pipelines.stop_executors()
    await line.go_on()
    found = result(await line.ends("succeeded"))
    assert (found["served_before"], found["version"]) == (serves, "1.1.0")
    assert len(deployer.rollouts) == (1 if serves else 0)
    assert len(deployer.answers) == 1
    assert deployer.dropped == []


async def test_cancelling_rolls_back_a_rollout_in_progress(line: Line, deployer: FakeDeployer) -> None:
    deployer.serve("1.0.0")
    deployer.course = [at("progressing", 5)]
    await line.begin(strategy="canary")
    await until(lambda: deployer.looks > 2)
    await line.cancel()
    done = await line.ends("cancelled")
    assert deployer.rollouts["r0"].state == "rolled_back"
    assert done.phase == "cancelled"
    assert f"execution {line.execution_id} was cancelled" in done.reason


async def test_cancelling_rolls_back_a_rollout_whose_request_is_forgotten_by_now(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.serve("1.0.0")
    deployer.course = [at("progressing", 5)]
    await line.begin(strategy="canary")
    await until(lambda: deployer.looks > 2)
    deployer.answers.clear()
    await line.cancel()
    await line.ends("cancelled")
    assert [each.state for each in deployer.rollouts.values()] == ["rolled_back"]


async def test_cancelling_never_takes_away_what_somebody_else_deployed(
    line: Line, deployer: FakeDeployer
) -> None:
    """The same version, in the moment between the look and the call; killed before the answer was kept."""
    deployer.before_answer = lambda: deployer.serve("1.1.0")
    dying = Dying(line.pipelines, "keep_check", 3, "before")
    await line.begin(dying)
    await asyncio.wait_for(dying.died.wait(), 15)
    await line.pipelines.stop_executors()
    await line.cancel()
    await line.go_on()
    await line.ends("cancelled")
    assert (deployer.deleted, deployer.dropped) == ([], ["fraud-staging"])


async def test_cancelling_takes_away_a_first_deployment_in_progress(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.first_phase = "pending"
    await line.begin()
    await until(lambda: deployer.deployments)
    await line.cancel()
    await line.ends("cancelled")
    assert deployer.deleted == ["fraud-staging"]


async def test_cancelling_finds_a_rollout_whose_answer_was_lost(line: Line, deployer: FakeDeployer) -> None:
    """Killed after the deployer had made it, before the pipeline knew its id."""
    deployer.serve("1.0.0")
    dying = Dying(line.pipelines, "keep_check", 3, "before")
    await line.begin(dying)
    await asyncio.wait_for(dying.died.wait(), 15)
    await line.pipelines.stop_executors()
    await line.cancel()
    await line.go_on()
    await line.ends("cancelled")
    assert [each.state for each in deployer.rollouts.values()] == ["rolled_back"]


async def test_cancelling_before_anything_was_asked_for_touches_nothing(
    line: Line, deployer: FakeDeployer
) -> None:
    deployer.serve("1.0.0")
    dying = Dying(line.pipelines, "keep_check", 1, "before")
    await line.begin(dying)
    await asyncio.wait_for(dying.died.wait(), 15)
    await line.pipelines.stop_executors()
    await line.cancel()
    await line.go_on()
    assert (await line.ends("cancelled")).reason == "nothing had been deployed yet"
    assert (deployer.rollouts, deployer.answers) == ({}, {})


# -- what is asked for -------------------------------------------------------------


def spec(**config: Any) -> rollout_pb2.RolloutSpec:
    read = configs.read("deployment", {"environment": "staging", **config}).config
    assert isinstance(read, DeploymentConfig)
    return rollout_request.spec(read)


def test_a_percentage_and_a_duration_are_one_step_and_then_everything() -> None:
    asked = spec(strategy="canary", canary_percentage=5, canary_duration=3600)
    plan = asked.canary
    assert (plan.initial_percentage, plan.increment_percentage, plan.target_percentage) == (5, 95, 100)
    assert (plan.interval_s, asked.rollback_window_s) == (3600, -1)
    assert not asked.approval_required
    assert asked.auto_rollback.enabled


def test_an_increment_makes_steps_and_what_is_not_said_is_left_to_the_deployer() -> None:
    asked = spec(
        strategy="canary",
        canary_percentage=1,
        increment_percentage=5,
        increment_interval_minutes=0.5,
        success_criteria={"error_rate_threshold": 0.01, "compare_latency": False},
        auto_rollback={"failure_threshold": 2},
        replay={"requests": 100, "quality_margin": 0.01},
        health_check_timeout=30,
    )
    plan = asked.canary
    assert (plan.initial_percentage, plan.increment_percentage, plan.interval_s) == (1, 5, 30)
    assert asked.criteria.error_rate_threshold == 0.01
    assert (asked.criteria.HasField("compare_latency"), asked.criteria.compare_latency) == (True, False)
    assert not asked.criteria.HasField("compare_errors")
    assert not asked.criteria.HasField("quality_margin")
    assert (asked.auto_rollback.failure_threshold, asked.ready_timeout_s) == (2, 30)
    assert (asked.replay.requests, asked.replay.quality_margin) == (100, 0.01)
    assert not asked.replay.HasField("max_disagreement")


def test_blue_green_and_rolling_ask_for_their_own_plans() -> None:
    assert spec(strategy="blue_green").HasField("blue_green")
    rolling = spec(strategy="rolling", max_surge=2, on_conflict="supersede")
    assert (rolling.rolling.max_surge, rolling.on_conflict) == (2, "supersede")
    assert not rolling.HasField("canary")
