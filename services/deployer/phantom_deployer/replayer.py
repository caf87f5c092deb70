"""Past requests from Kafka through a replica, by the library that probes model servers."""

from __future__ import annotations

from phantom_deployer.domain.rollouts.model import Example, ReplayReport
from phantom_deployer.service.replaying import Replay
from phantom_platform.clock import Clock
from phantom_probing import replay as probing
from phantom_probing.client import Client, Target
from phantom_probing.replay_report import Limits, Report


class KafkaReplayer:
    """One request at a time, so that the latency measured is the model's."""

    def __init__(self, bootstrap: str, clock: Clock) -> None:
        self._bootstrap = bootstrap
        self._clock = clock

    async def run(self, replay: Replay) -> ReplayReport:
        order = probing.Order(
            endpoint=replay.endpoint,
            requests=replay.plan.requests,
            workspace=replay.workspace,
            aliases=replay.aliases,
        )
        limits = Limits(
            max_disagreement=replay.plan.max_disagreement,
            max_distribution_distance=replay.plan.max_distribution_distance,
            max_latency_p95_ms=replay.plan.max_latency_p95_ms,
            quality_margin=replay.plan.quality_margin,
        )
        target = Target(replay.address, replay.model.model_id)
        async with Client(target, replay.model.model_schema) as candidate:
            report = await probing.replay(self._bootstrap, order, candidate, limits, self._clock.now())
        return to_report(report)


def to_report(report: Report) -> ReplayReport:
    """As the rollout keeps it. Raises ValueError for a verdict that is none."""
    verdict = report.verdict
    if verdict not in ("pass", "fail", "not_enough_data"):
        raise ValueError(f"a replay came out as {verdict!r}")
    return ReplayReport(
        verdict=verdict,  # type: ignore[arg-type]  # checked
        reason=report.reason,
        requests=report.requests,
        rows=report.rows,
        failed=report.failed,
        disagreement=report.disagreement,
        distribution_distance=report.distribution_distance,
        latency_p50_ms=report.latency_p50_ms or 0.0,
        latency_p95_ms=report.latency_p95_ms or 0.0,
        served_latency_p95_ms=report.served_latency_p95_ms or 0.0,
        labelled=report.quality.labelled,
        accuracy=report.quality.accuracy,
        served_accuracy=report.quality.served_accuracy,
        accuracy_difference_lower=report.quality.difference_lower,
        log_loss=report.quality.log_loss,
        served_log_loss=report.quality.served_log_loss,
        examples=tuple(Example(each.id, each.served, each.candidate) for each in report.examples),
    )
