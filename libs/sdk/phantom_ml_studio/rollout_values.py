"""What calls about rollouts return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from phantom.deployer.v1 import rollout_pb2 as messages
from phantom_ml_studio.reading import fields_of, optional

ENDED = ("succeeded", "rolled_back", "failed", "superseded")


@dataclass(frozen=True)
class Finding:
    """One criterion's judgement: `estimate` in `lower`..`upper` (always valid), held against `limit`."""

    criterion: str
    verdict: str
    candidate: float | None
    stable: float | None
    estimate: float | None
    lower: float | None
    upper: float | None
    limit: float | None
    p_value: float | None
    count: int
    reason: str

    @classmethod
    def of(cls, f: messages.Finding) -> Finding:
        """From the message."""
        return cls(**fields_of(cls, f))


@dataclass(frozen=True)
class Verdict:
    """`pass`, `fail`, `not_enough_data`, `not_enough_units`, `not_comparable` or `metrics_unavailable`, and why."""

    verdict: str
    findings: tuple[Finding, ...]
    judged_at: datetime | None
    evidence_until: datetime | None
    candidate_requests: int
    stable_requests: int
    step: int

    @classmethod
    def of(cls, v: messages.Verdict) -> Verdict:
        """From the message."""
        return cls(**fields_of(cls, v, findings=tuple(Finding.of(f) for f in v.findings)))


@dataclass(frozen=True)
class Transition:
    """From one state to the next, and why in words and figures."""

    number: int
    from_state: str
    to_state: str
    reason_code: str
    reason: str
    actor: str
    at: datetime | None
    step: int
    percentage: float
    route_version: int

    @classmethod
    def of(cls, t: messages.Transition) -> Transition:
        """From the message."""
        return cls(**fields_of(cls, t))


@dataclass(frozen=True)
class Disagreement:
    """A past request that the candidate answers otherwise."""

    prediction_id: str
    served: str
    candidate: str


@dataclass(frozen=True)
class ReplayReport:
    """Past requests through the candidate, against the answers that were given. Shares 0 to 1, times in ms."""

    verdict: str
    reason: str
    requests: int
    rows: int
    failed: int
    disagreement: float
    distribution_distance: float
    latency_p50_ms: float
    latency_p95_ms: float
    served_latency_p95_ms: float
    labelled: int
    accuracy: float | None
    served_accuracy: float | None
    accuracy_difference_lower: float | None
    log_loss: float | None
    served_log_loss: float | None
    examples: tuple[Disagreement, ...]

    @classmethod
    def of(cls, r: messages.ReplayReport) -> ReplayReport:
        """From the message."""
        examples = tuple(Disagreement(e.prediction_id, e.served, e.candidate) for e in r.examples)
        return cls(**fields_of(cls, r, examples=examples))


@dataclass(frozen=True)
class ShadowReport:
    """What the copies were answered, compared with the answers that users got. Shares 0 to 1, times in ms."""

    compared: int
    agreement: float
    agreement_lower: float
    agreement_upper: float
    distribution_distance: float
    mean_score_difference: float
    latency_p95_ms: float | None
    stable_latency_p95_ms: float | None
    failed: int

    @classmethod
    def of(cls, s: messages.ShadowReport) -> ShadowReport:
        """From the message."""
        return cls(**fields_of(cls, s))


@dataclass(frozen=True)
class Rollout:
    """One version being brought in.

    `error_rate` (0 to 1) and `latency_p95` (ms) are the candidate's over the whole rollout, and NaN while there is too
    little to say: every comparison with NaN is False, so no threshold is passed on no evidence.
    """

    rollout_id: str
    deployment_id: str
    environment: str
    model_id: str
    model_version: str
    stable_version: str
    candidate: str
    stable: str
    strategy: str
    spec: dict[str, Any]
    state: str
    reason_code: str
    reason: str
    step: int
    steps: int
    current_percentage: float
    step_started_at: datetime | None
    step_ends_at: datetime | None
    verdict: Verdict | None
    fired_criterion: str
    transitions: tuple[Transition, ...]
    replay: ReplayReport | None
    shadow: ShadowReport | None
    error_rate: float
    latency_p95: float
    requests: int
    requests_to_detect_doubling: int
    warnings: tuple[str, ...]
    route_version: int
    created_by: str
    created_at: datetime | None
    ended_at: datetime | None
    approved_by: str

    @property
    def id(self) -> str:
        """The rollout's id."""
        return self.rollout_id

    @property
    def phase(self) -> str:
        """The state, by the guide's name."""
        return self.state

    @property
    def has_ended(self) -> bool:
        """Nothing will happen to it any more."""
        return self.state in ENDED

    @classmethod
    def of(cls, r: messages.Rollout) -> Rollout:
        """From the message."""
        error_rate, latency = optional(r, "error_rate"), optional(r, "latency_p95_ms")
        parts = fields_of(
            cls,
            r,
            strategy=r.spec.strategy,
            spec=MessageToDict(r.spec, preserving_proto_field_name=True),
            verdict=Verdict.of(r.verdict) if r.HasField("verdict") else None,
            transitions=tuple(Transition.of(t) for t in r.transitions),
            replay=ReplayReport.of(r.replay) if r.HasField("replay") else None,
            shadow=ShadowReport.of(r.shadow) if r.HasField("shadow") else None,
            error_rate=math.nan if error_rate is None else error_rate,
            latency_p95=math.nan if latency is None else latency,
        )
        return cls(**parts)
