"""Stages of type `deployment`: a first deployment where the model has none in the environment, else a rollout.

The runner only asks and watches. The deployer's rollout judges itself; its transitions become the stage's log, and the
criterion that made it roll back becomes the stage's reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol, TypeVar

from google.protobuf.json_format import MessageToDict

from phantom.deployer.v1 import deployer_service_pb2 as deployer
from phantom.deployer.v1 import rollout_pb2
from phantom.deployer.v1 import rollout_service_pb2 as rollouts
from phantom_pipelines.domain.configs.deployment import DeploymentConfig
from phantom_pipelines.domain.values import Deployed, Endpoint, Json
from phantom_pipelines.runners import rollout_request
from phantom_pipelines.runners.runner import StageContext, StageFacts, StageResult
from phantom_platform.errors import NotFound, PhantomError, Refused, Unavailable

T = TypeVar("T")

ENDED = ("succeeded", "rolled_back", "failed", "superseded")
# How long undoing a rollout is watched; it goes on by itself afterwards.
UNDO_WATCHED_S = 120.0


class Deployer(Protocol):
    """What is asked of the deployer."""

    async def endpoints(self, workspace: str, environment: str) -> list[Endpoint]: ...
    async def endpoint(self, workspace: str, name: str) -> Endpoint: ...
    async def deploy(self, workspace: str, request: deployer.DeployRequest) -> Deployed: ...
    async def delete(self, workspace: str, deployment_id: str, request_id: str) -> None: ...
    async def drop_candidate(self, workspace: str, deployment_id: str, request_id: str) -> None: ...
    async def create_rollout(
        self, workspace: str, request: rollouts.CreateRolloutRequest
    ) -> rollout_pb2.Rollout: ...
    async def rollout(self, workspace: str, rollout_id: str) -> rollout_pb2.Rollout: ...
    async def roll_back(
        self, workspace: str, rollout_id: str, reason: str, request_id: str
    ) -> rollout_pb2.Rollout: ...


class DeploymentRunner:
    """`poll_s`: between two looks at what the deployer does."""

    def __init__(self, deployer: Deployer, *, poll_s: float = 1.0) -> None:
        self._deployer = deployer
        self._poll_s = poll_s

    async def run(self, stage: StageContext) -> StageResult:
        config = _config(stage.facts)

        async def look() -> Json:
            return _before(await self._patiently(stage, lambda: self._look(stage.facts, config)))

        # Kept before anything changes: after an interruption the environment may already serve our own version.
        before = await stage.check("_before", look)
        if not before["deployment_id"]:
            return await self._deploy_first(stage, config)
        if before["serves_it"]:
            where = before["deployment_id"]
            await stage.log(f"{where} serves {stage.facts.model.version} already", once="already")
            return await self._wait_until_ready(stage, config, where, stage.facts.started_at, before)
        return await self._roll_out(stage, config, before)

    async def undo(self, stage: StageContext) -> str:
        """Where the answer was lost, asks for the same thing with the same request id once more, to learn what became
        of it: the deployer remembers request ids for days, and a rollout may take longer.
        """
        facts, config = stage.facts, _config(stage.facts)
        before = stage.finished_checks.get("_before")
        if before is None or "_asking" not in stage.finished_checks:
            return "nothing had been deployed yet"
        if not before["deployment_id"]:
            return await self._undo_first(facts, config)
        known = stage.finished_checks.get("_rollout")
        if known is not None:
            return await self._take_back(facts, str(known["rollout_id"]))
        return await self._undo_rollout(facts, config, before["deployment_id"])

    # -- where --------------------------------------------------------------------

    async def _look(self, facts: StageFacts, config: DeploymentConfig) -> tuple[Endpoint | None, bool]:
        """What serves the model in the environment now, and whether it serves our version."""
        found = await self._find(facts, config)
        if found is None:
            return None, False
        model = facts.model
        is_ours = (found.version, found.digest) == (model.version, model.digest)
        return found, is_ours and not found.is_rolling_out

    async def _find(self, facts: StageFacts, config: DeploymentConfig) -> Endpoint | None:
        if config.deployment_id:
            try:
                return await self._deployer.endpoint(facts.workspace, config.deployment_id)
            except NotFound:
                return None
        everything = await self._deployer.endpoints(facts.workspace, config.environment)
        found = [each for each in everything if each.model_id == facts.model.model_id]
        if len(found) > 1:
            raise Refused(
                f"{facts.model.model_id} has {len(found)} deployments in {config.environment}: "
                f"{', '.join(each.deployment_id for each in found)}; name the one that is meant as deployment_id",
                code="deployment_ambiguous",
            )
        return found[0] if found else None

    # -- a first deployment -------------------------------------------------------

    async def _deploy_first(self, stage: StageContext, config: DeploymentConfig) -> StageResult:
        facts = stage.facts
        await stage.check("_asking", _nothing)

        async def deploy() -> Json:
            request = rollout_request.first_deployment(facts, config)
            made = await self._patiently(stage, lambda: self._deployer.deploy(facts.workspace, request))
            return {
                "deployment_id": made.deployment_id,
                "serves_it": made.is_first,
                "at": stage.now().isoformat(),
            }

        made = await stage.check("_deployed", deploy)
        where = str(made["deployment_id"])
        if not made["serves_it"]:
            # Somebody made the deployment in between, and ours became a candidate without traffic.
            await self._deployer.drop_candidate(facts.workspace, where, f"{facts.request_id}/drop")
            words = f"{where} was deployed by somebody else at the same moment; execute the pipeline again"
            return StageResult(False, "deployed_meanwhile", words, {"deployment_id": where})
        await stage.log(f"{where} is deployed for the first time; waiting until it is ready", once="deployed")
        began = datetime.fromisoformat(made["at"])
        result = await self._wait_until_ready(stage, config, where, began, None)
        if not result.ok and config.rollback_on_failure:
            await self._deployer.delete(facts.workspace, where, f"{facts.request_id}/delete")
            await stage.log(f"{where} is taken away again", "warning", once="deleted")
        return result

    async def _wait_until_ready(
        self,
        stage: StageContext,
        config: DeploymentConfig,
        where: str,
        began: datetime,
        before: Json | None,
    ) -> StageResult:
        facts, version, limit_s = stage.facts, stage.facts.model.version, config.health_check_timeout_s
        while True:
            now = await self._patiently(stage, lambda: self._deployer.endpoint(facts.workspace, where))
            result = _result(config, where, version, before)
            if now.phase == "ready" and now.version == version:
                return StageResult(True, "", f"{where} is ready with {version}", result)
            if now.phase == "failed":
                return StageResult(False, "deployment_failed", f"{where} failed: {now.reason}", result)
            if (stage.now() - began).total_seconds() > limit_s:
                words = f"{where} is not ready after {limit_s:g} s: {now.reason or now.phase}"
                return StageResult(False, "health_check_timeout", words, result)
            await asyncio.sleep(self._poll_s)

    async def _undo_first(self, facts: StageFacts, config: DeploymentConfig) -> str:
        try:
            made = await self._deployer.deploy(
                facts.workspace, rollout_request.first_deployment(facts, config)
            )
            if not made.is_first:
                await self._deployer.drop_candidate(
                    facts.workspace, made.deployment_id, f"{facts.request_id}/drop"
                )
                return f"the candidate of {made.deployment_id} is taken away"
            await self._deployer.delete(facts.workspace, made.deployment_id, f"{facts.request_id}/delete")
        except Unavailable:
            raise
        except PhantomError as error:
            return f"nothing had been deployed: {error.message}"
        return f"{made.deployment_id}, which had nothing before, is taken away"

    # -- a rollout ----------------------------------------------------------------

    async def _roll_out(self, stage: StageContext, config: DeploymentConfig, before: Json) -> StageResult:
        facts, where = stage.facts, str(before["deployment_id"])
        await stage.check("_asking", _nothing)

        async def create() -> Json:
            request = rollout_request.rollout(facts, config, where)
            made = await self._patiently(
                stage, lambda: self._deployer.create_rollout(facts.workspace, request)
            )
            return {"rollout_id": made.rollout_id}

        rollout_id = str((await stage.check("_rollout", create))["rollout_id"])
        words = f"rollout {rollout_id} brings {facts.model.version} into {where} by {config.strategy}"
        await stage.log(words, once="created")
        rollout = await self._watch(stage, rollout_id, config)
        return _judged(rollout, config, before, facts.model.version)

    async def _watch(
        self, stage: StageContext, rollout_id: str, config: DeploymentConfig
    ) -> rollout_pb2.Rollout:
        """Until it has ended, or waits for somebody after a judgement that it may not act upon."""
        workspace = stage.facts.workspace
        while True:
            rollout = await self._patiently(stage, lambda: self._deployer.rollout(workspace, rollout_id))
            await _mirror(stage, rollout)
            if rollout.state in ENDED or _is_stopped(rollout, config):
                return rollout
            await stage.progress(rollout.current_percentage / 100)
            await asyncio.sleep(self._poll_s)

    async def _undo_rollout(self, facts: StageFacts, config: DeploymentConfig, where: str) -> str:
        try:
            request = rollout_request.rollout(facts, config, where)
            made = await self._deployer.create_rollout(facts.workspace, request)
        except Unavailable:
            raise
        except PhantomError as error:
            return f"no rollout had been begun: {error.message}"
        return await self._take_back(facts, made.rollout_id)

    async def _take_back(self, facts: StageFacts, rollout_id: str) -> str:
        reason = f"execution {facts.execution_id} was cancelled"
        request_id = f"{facts.request_id}/cancel"
        try:
            await self._deployer.roll_back(facts.workspace, rollout_id, reason, request_id)
        except Refused as error:
            return f"rollout {rollout_id} had ended already: {error.message}"
        return await self._watch_undo(facts, rollout_id)

    async def _watch_undo(self, facts: StageFacts, rollout_id: str) -> str:
        try:
            async with asyncio.timeout(UNDO_WATCHED_S):
                while True:
                    rollout = await self._deployer.rollout(facts.workspace, rollout_id)
                    if rollout.state in ENDED:
                        return f"rollout {rollout_id} is {rollout.state}: {rollout.reason}"
                    await asyncio.sleep(self._poll_s)
        except TimeoutError:
            return f"rollout {rollout_id} is being rolled back"

    async def _patiently(self, stage: StageContext, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeated for as long as the deployer is away: it answers a request id as it did before."""
        while True:
            try:
                return await ask()
            except Unavailable as error:
                await stage.log(
                    f"the deployer is away: {error.message}", "warning", once=f"away {stage.facts.attempt}"
                )
                await asyncio.sleep(max(self._poll_s, error.retry_after_s))


async def _nothing() -> Json:
    return {}


def _config(facts: StageFacts) -> DeploymentConfig:
    assert isinstance(facts.config, DeploymentConfig)  # the type decides the runner
    return facts.config


def _before(looked: tuple[Endpoint | None, bool]) -> Json:
    found, serves_it = looked
    return {
        "deployment_id": found.deployment_id if found else "",
        "version": found.version if found else "",
        "digest": found.digest if found else "",
        "serves_it": serves_it,
    }


def _result(config: DeploymentConfig, where: str, version: str, before: Json | None) -> Json:
    """`served_before`: the version that the environment served; the same one where nothing had to change."""
    return {
        "environment": config.environment,
        "deployment_id": where,
        "version": version,
        "strategy": config.strategy,
        "served_before": before["version"] if before else "",
        "served_before_digest": before["digest"] if before else "",
    }


def _judged(
    rollout: rollout_pb2.Rollout, config: DeploymentConfig, before: Json, version: str
) -> StageResult:
    result = _result(config, rollout.deployment_id, version, before) | {
        "rollout_id": rollout.rollout_id,
        "state": rollout.state,
        "percentage": rollout.current_percentage,
        "requests": rollout.requests,
        "fired_criterion": rollout.fired_criterion,
        "warnings": list(rollout.warnings),
    }
    if rollout.HasField("verdict"):
        result["verdict"] = MessageToDict(rollout.verdict, preserving_proto_field_name=True)
    if rollout.HasField("replay"):
        result["replay"] = MessageToDict(rollout.replay, preserving_proto_field_name=True)
    if rollout.state == "succeeded":
        return StageResult(True, "", f"{rollout.deployment_id} serves {version}", result)
    fired = f" on {rollout.fired_criterion}" if rollout.fired_criterion else ""
    code = {"paused": "rollout_stopped", "rolled_back": "rolled_back"}.get(
        rollout.state, f"rollout_{rollout.state}"
    )
    words = f"rollout {rollout.rollout_id} is {rollout.state}{fired}: {rollout.reason}"
    return StageResult(False, code, words, result)


def _is_stopped(rollout: rollout_pb2.Rollout, config: DeploymentConfig) -> bool:
    """Judged bad, and nobody but a person may roll it back."""
    may_act = config.auto_rollback.is_enabled
    return not may_act and rollout.state == "paused" and rollout.verdict.verdict == "fail"


async def _mirror(stage: StageContext, rollout: rollout_pb2.Rollout) -> None:
    """Its transitions and warnings as lines of the stage's log, each once."""
    for warning in rollout.warnings:
        await stage.log(warning, "warning", once=f"warning {warning}"[:500])
    for each in rollout.transitions:
        is_bad = each.to_state in ("rolling_back", "rolled_back", "failed", "superseded")
        words = f"{each.from_state or 'new'} → {each.to_state} at {each.percentage:g} %"
        if each.reason:
            words += f": {each.reason}"
        await stage.log(words, "error" if is_bad else "info", once=f"transition {each.number}")
