"""Rollouts: wire to values and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from phantom.deployer.v1 import rollout_pb2 as pb
from phantom_deployer.converters import to_timestamp
from phantom_deployer.domain.rollouts.model import (
    Judgement,
    ReplayReport,
    Rollout,
    ShadowReport,
    Transition,
)
from phantom_deployer.domain.rollouts.spec import (
    APPROVAL_TIMEOUT_S,
    FAILURE_THRESHOLD,
    LEVEL,
    READY_TIMEOUT_S,
    AutoRollback,
    BlueGreenPlan,
    CanaryPlan,
    OnConflict,
    ReplayPlan,
    RollingPlan,
    RolloutSpec,
    ShadowPlan,
    StrategyName,
    SuccessCriteria,
)
from phantom_statistics.rollouts import Finding


def to_spec(spec: pb.RolloutSpec) -> RolloutSpec:
    """With the defaults that the proto states; not checked yet."""
    return RolloutSpec(
        strategy=cast(StrategyName, spec.strategy),
        canary=_canary(spec.canary) if spec.HasField("canary") else None,
        blue_green=(
            BlueGreenPlan(spec.blue_green.pause_before_switch) if spec.HasField("blue_green") else None
        ),
        rolling=(
            RollingPlan(spec.rolling.max_unavailable, spec.rolling.max_surge)
            if spec.HasField("rolling")
            else None
        ),
        shadow=(
            ShadowPlan(spec.shadow.percentage, spec.shadow.duration_s, spec.shadow.min_agreement)
            if spec.HasField("shadow")
            else None
        ),
        criteria=_criteria(spec.criteria),
        auto_rollback=_auto_rollback(spec.auto_rollback)
        if spec.HasField("auto_rollback")
        else AutoRollback(),
        replay=_replay(spec.replay) if spec.HasField("replay") else None,
        approval_required=spec.approval_required,
        approvers=tuple(spec.approvers),
        approval_timeout_s=spec.approval_timeout_s or APPROVAL_TIMEOUT_S,
        ready_timeout_s=spec.ready_timeout_s or READY_TIMEOUT_S,
        rollback_window_s=spec.rollback_window_s,
        on_conflict=cast(OnConflict, spec.on_conflict or "refuse"),
    )


def _canary(plan: pb.CanaryPlan) -> CanaryPlan:
    return CanaryPlan(
        initial_percentage=plan.initial_percentage,
        target_percentage=plan.target_percentage,
        increment_percentage=plan.increment_percentage,
        interval_s=plan.interval_s,
        analysis_interval_s=plan.analysis_interval_s,
        pause_at=tuple(plan.pause_at),
    )


def _given(message: Any, name: str, default: Any = None) -> Any:
    return getattr(message, name) if message.HasField(name) else default


def _criteria(asked: pb.SuccessCriteria) -> SuccessCriteria:
    return SuccessCriteria(
        # 0: not judged, as where it is absent.
        error_rate_threshold=_given(asked, "error_rate_threshold") or None,
        latency_p95_threshold_ms=_given(asked, "latency_p95_threshold_ms") or None,
        minimum_requests=asked.minimum_requests,
        compare_errors=_given(asked, "compare_errors", True),
        compare_latency=_given(asked, "compare_latency", True),
        compare_rejected=_given(asked, "compare_rejected", True),
        quality_margin=_given(asked, "quality_margin"),
        max_distribution_distance=_given(asked, "max_distribution_distance") or None,
        level=asked.level or LEVEL,
        latency_tolerance=asked.latency_tolerance,
    )


def _auto_rollback(asked: pb.AutoRollback) -> AutoRollback:
    threshold = asked.failure_threshold or FAILURE_THRESHOLD
    return AutoRollback(asked.enabled, threshold, asked.rollback_percentage)


def _replay(plan: pb.ReplayPlan) -> ReplayPlan:
    return ReplayPlan(
        requests=plan.requests,
        max_disagreement=_given(plan, "max_disagreement"),
        max_distribution_distance=_given(plan, "max_distribution_distance"),
        max_latency_p95_ms=_given(plan, "max_latency_p95_ms"),
        quality_margin=_given(plan, "quality_margin"),
    )


# -- back ------------------------------------------------------------------------------------------------------------


def from_spec(spec: RolloutSpec) -> pb.RolloutSpec:
    """With every default filled in."""
    auto, canary = spec.auto_rollback, spec.canary
    return pb.RolloutSpec(
        strategy=spec.strategy,
        canary=(
            pb.CanaryPlan(
                initial_percentage=canary.initial_percentage,
                target_percentage=canary.target_percentage,
                increment_percentage=canary.increment_percentage,
                interval_s=canary.interval_s,
                analysis_interval_s=spec.analysis_s(canary.interval_s),
                pause_at=canary.pause_at,
            )
            if canary
            else None
        ),
        blue_green=(
            pb.BlueGreenPlan(pause_before_switch=spec.blue_green.pause_before_switch)
            if spec.blue_green
            else None
        ),
        rolling=(
            pb.RollingPlan(max_unavailable=spec.rolling.max_unavailable, max_surge=spec.rolling.max_surge)
            if spec.rolling
            else None
        ),
        shadow=(
            pb.ShadowPlan(
                percentage=spec.shadow.percentage,
                duration_s=spec.shadow.duration_s,
                min_agreement=spec.shadow.min_agreement,
            )
            if spec.shadow
            else None
        ),
        criteria=_from_criteria(spec.criteria),
        auto_rollback=pb.AutoRollback(
            enabled=auto.enabled,
            failure_threshold=auto.failure_threshold,
            rollback_percentage=auto.rollback_percentage,
        ),
        replay=_from_replay_plan(spec.replay) if spec.replay else None,
        approval_required=spec.approval_required,
        approvers=spec.approvers,
        approval_timeout_s=spec.approval_timeout_s,
        ready_timeout_s=spec.ready_timeout_s,
        rollback_window_s=spec.rollback_window_s,
        on_conflict=spec.on_conflict,
    )


def _from_criteria(criteria: SuccessCriteria) -> pb.SuccessCriteria:
    return pb.SuccessCriteria(
        error_rate_threshold=criteria.error_rate_threshold,
        latency_p95_threshold_ms=criteria.latency_p95_threshold_ms,
        minimum_requests=criteria.minimum_requests,
        compare_errors=criteria.compare_errors,
        compare_latency=criteria.compare_latency,
        compare_rejected=criteria.compare_rejected,
        quality_margin=criteria.quality_margin,
        max_distribution_distance=criteria.max_distribution_distance,
        level=criteria.level,
        latency_tolerance=criteria.latency_tolerance,
    )


def _from_replay_plan(plan: ReplayPlan) -> pb.ReplayPlan:
    return pb.ReplayPlan(
        requests=plan.requests,
        max_disagreement=plan.max_disagreement,
        max_distribution_distance=plan.max_distribution_distance,
        max_latency_p95_ms=plan.max_latency_p95_ms,
        quality_margin=plan.quality_margin,
    )


def from_rollout(
    rollout: Rollout, transitions: Iterable[Transition], reason: str, route_version: int
) -> pb.Rollout:
    """`reason`: with what it waits for just now."""
    spec, span, figures = from_spec(rollout.spec), rollout.span, rollout.figures
    spec.rollback_window_s = rollout.window_s
    if rollout.quality_margin is not None:
        spec.criteria.quality_margin = rollout.quality_margin
    return pb.Rollout(
        rollout_id=rollout.id,
        deployment_id=rollout.deployment_id,
        environment=rollout.environment,
        model_id=rollout.model_id,
        model_version=rollout.model_version,
        stable_version=rollout.stable_version,
        candidate=rollout.candidate,
        stable=rollout.stable,
        spec=spec,
        state=rollout.state,
        reason_code=rollout.reason_code,
        reason=reason,
        step=rollout.step + 1,
        steps=len(rollout.steps),
        current_percentage=rollout.percentage,
        step_started_at=to_timestamp(span.started_at) if span and span.started_at else None,
        step_ends_at=to_timestamp(rollout.step_ends_at) if rollout.step_ends_at else None,
        verdict=_from_judgement(rollout.verdict) if rollout.verdict else None,
        transitions=map(_from_transition, transitions),
        replay=_from_replay(rollout.replay) if rollout.replay else None,
        shadow=_from_shadow(rollout.shadow) if rollout.shadow else None,
        created_by=rollout.created_by,
        created_at=to_timestamp(rollout.created_at),
        ended_at=to_timestamp(rollout.ended_at) if rollout.ended_at else None,
        approved_by=rollout.approved_by,
        warnings=rollout.warnings,
        error_rate=figures.error_rate,
        latency_p95_ms=figures.latency_p95_ms,
        requests=figures.requests,
        route_version=route_version,
        requests_to_detect_doubling=rollout.requests_to_detect_doubling,
        fired_criterion=rollout.fired,
    )


def _from_judgement(judgement: Judgement) -> pb.Verdict:
    until = judgement.evidence_until
    return pb.Verdict(
        verdict=judgement.verdict,
        findings=map(_from_finding, judgement.findings),
        judged_at=to_timestamp(judgement.judged_at) if judgement.judged_at else None,
        evidence_until=to_timestamp(until) if until else None,
        candidate_requests=judgement.candidate_requests,
        stable_requests=judgement.stable_requests,
        step=judgement.step + 1,
    )


def _from_finding(finding: Finding) -> pb.Finding:
    return pb.Finding(
        criterion=finding.criterion,
        verdict=finding.verdict,
        candidate=finding.candidate,
        stable=finding.stable,
        estimate=finding.estimate,
        lower=finding.lower,
        upper=finding.upper,
        limit=finding.limit,
        p_value=finding.p_value,
        count=finding.count,
        reason=finding.reason,
    )


def _from_transition(move: Transition) -> pb.Transition:
    return pb.Transition(
        number=move.number,
        from_state=move.from_state,
        to_state=move.to_state,
        reason_code=move.reason_code,
        reason=move.reason,
        actor=move.actor,
        at=to_timestamp(move.at),
        step=move.step,
        percentage=move.bp / 100,
        route_version=move.route_version,
    )


def _from_replay(report: ReplayReport) -> pb.ReplayReport:
    return pb.ReplayReport(
        verdict=report.verdict,
        reason=report.reason,
        requests=report.requests,
        rows=report.rows,
        failed=report.failed,
        disagreement=report.disagreement,
        distribution_distance=report.distribution_distance,
        latency_p50_ms=report.latency_p50_ms,
        latency_p95_ms=report.latency_p95_ms,
        served_latency_p95_ms=report.served_latency_p95_ms,
        labelled=report.labelled,
        accuracy=report.accuracy,
        served_accuracy=report.served_accuracy,
        accuracy_difference_lower=report.accuracy_difference_lower,
        log_loss=report.log_loss,
        served_log_loss=report.served_log_loss,
        examples=[
            pb.Disagreement(prediction_id=each.prediction_id, served=each.served, candidate=each.candidate)
            for each in report.examples
        ],
    )


def _from_shadow(report: ShadowReport) -> pb.ShadowReport:
    return pb.ShadowReport(
        compared=report.compared,
        agreement=report.agreement,
        agreement_lower=report.agreement_lower,
        agreement_upper=report.agreement_upper,
        distribution_distance=report.distribution_distance,
        mean_score_difference=report.mean_score_difference,
        latency_p95_ms=report.latency_p95_ms,
        stable_latency_p95_ms=report.stable_latency_p95_ms,
        failed=report.failed,
    )
