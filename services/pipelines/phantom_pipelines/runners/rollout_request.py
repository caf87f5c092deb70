"""A deployment stage's configuration, as the deployer is asked for it."""

from __future__ import annotations

from phantom.deployer.v1 import deployer_service_pb2 as deployer
from phantom.deployer.v1 import rollout_pb2 as pb
from phantom.deployer.v1 import rollout_service_pb2 as rollouts
from phantom_pipelines.domain.configs.deployment import Canary, Criteria, DeploymentConfig, Replay
from phantom_pipelines.runners.runner import StageFacts


def first_deployment(facts: StageFacts, config: DeploymentConfig) -> deployer.DeployRequest:
    return deployer.DeployRequest(
        model_id=facts.model.model_id,
        version=facts.model.version,
        environment=config.environment,
        deployment_id=config.deployment_id,
        replicas=config.replicas,
        requires_new_features=config.requires_new_features,
        request_id=facts.request_id,
        on_behalf_of=facts.requested_by,
    )


def rollout(facts: StageFacts, config: DeploymentConfig, deployment_id: str) -> rollouts.CreateRolloutRequest:
    return rollouts.CreateRolloutRequest(
        model_id=facts.model.model_id,
        version=facts.model.version,
        environment=config.environment,
        deployment_id=deployment_id,
        spec=spec(config),
        requires_new_features=config.requires_new_features,
        request_id=facts.request_id,
        on_behalf_of=facts.requested_by,
    )


def spec(config: DeploymentConfig) -> pb.RolloutSpec:
    """The stage's approval is the pipeline's, so the rollout asks for none."""
    found = pb.RolloutSpec(
        strategy=config.strategy,
        criteria=_criteria(config.criteria),
        auto_rollback=pb.AutoRollback(
            enabled=config.auto_rollback.is_enabled,
            failure_threshold=config.auto_rollback.failure_threshold or 0,
            rollback_percentage=config.auto_rollback.rollback_percentage,
        ),
        ready_timeout_s=config.health_check_timeout_s,
        rollback_window_s=config.rollback_window_s,
        on_conflict=config.on_conflict,
    )
    match config.strategy:
        case "canary":
            found.canary.CopyFrom(_canary(config.canary))
        case "rolling":
            found.rolling.CopyFrom(
                pb.RollingPlan(max_unavailable=config.max_unavailable, max_surge=config.max_surge)
            )
        case _:
            found.blue_green.CopyFrom(pb.BlueGreenPlan())
    if config.replay is not None:
        found.replay.CopyFrom(_replay(config.replay))
    return found


def _canary(canary: Canary) -> pb.CanaryPlan:
    """Without an increment: one step at the initial share, then all of it."""
    rest = 100.0 - canary.initial
    return pb.CanaryPlan(
        initial_percentage=canary.initial,
        target_percentage=100.0,
        increment_percentage=canary.increment or rest or 100.0,
        interval_s=canary.interval_s,
        analysis_interval_s=canary.analysis_interval_s or 0.0,
        pause_at=canary.pause_at,
    )


def _criteria(criteria: Criteria) -> pb.SuccessCriteria:
    found = pb.SuccessCriteria(
        minimum_requests=criteria.minimum_requests or 0,
        level=criteria.level or 0.0,
    )
    for name in (
        "error_rate_threshold",
        "latency_p95_threshold_ms",
        "compare_errors",
        "compare_latency",
        "compare_rejected",
        "quality_margin",
        "max_distribution_distance",
        "latency_tolerance",
    ):
        value = getattr(criteria, name)
        if value is not None:
            setattr(found, name, value)
    return found


def _replay(replay: Replay) -> pb.ReplayPlan:
    found = pb.ReplayPlan(requests=replay.requests)
    for name in ("max_disagreement", "max_distribution_distance", "max_latency_p95_ms", "quality_margin"):
        value = getattr(replay, name)
        if value is not None:
            setattr(found, name, value)
    return found
