"""A rollout as it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from phantom_deployer.domain.rollouts.spec import RolloutSpec
from phantom_statistics.rollouts import Finding

State = Literal[
    "pending", "progressing", "analysing", "paused", "waiting_for_approval", "promoting", "rolling_back",
    "succeeded", "rolled_back", "failed", "superseded",
]  # fmt: skip
VerdictWord = Literal[
    "pass", "fail", "not_enough_data", "not_enough_units", "not_comparable", "metrics_unavailable"
]

ENDED: frozenset[State] = frozenset({"succeeded", "rolled_back", "failed", "superseded"})
# The candidate has, or may have, traffic: a failed judgement acts.
WITH_TRAFFIC: frozenset[State] = frozenset({"progressing", "analysing", "promoting", "paused"})
# Verdicts that hold a step; one that is held for too long pauses with its code, and goes on by itself once it passes.
UNDECIDED = frozenset({"not_enough_data", "not_enough_units", "not_comparable"})
# Pauses that end by themselves.
SELF_ENDING = frozenset({"no_data", "metrics_unavailable"}) | UNDECIDED
# A step is held so many of its lengths, and so long, s, whichever is longer, before it pauses.
HELD_LENGTHS = 5
HELD_S = 600.0
WINDOW_S = 5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the evidence said at `judged_at`, from windows up to `evidence_until`."""

    verdict: VerdictWord
    findings: tuple[Finding, ...] = ()
    # The criterion that failed; empty where none did.
    fired: str = ""
    judged_at: datetime | None = None
    evidence_until: datetime | None = None
    candidate_requests: int = 0
    stable_requests: int = 0
    step: int = 0

    @property
    def is_fail(self) -> bool:
        return self.verdict == "fail"

    @property
    def words(self) -> str:
        """The reason: of what fired, else of the first finding that does not pass, else the verdict's."""
        wanted = [each for each in self.findings if each.criterion == self.fired] if self.fired else []
        wanted = wanted or [each for each in self.findings if each.verdict == self.verdict != "pass"]
        if wanted:
            return f"{wanted[0].criterion}: {wanted[0].reason}"
        return f"every criterion passes on {self.candidate_requests:,} requests of the candidate"


@dataclass(frozen=True, slots=True)
class Span:
    """Time in which the candidate held one share, on these route versions.

    Its evidence begins with the first whole window after every gateway acknowledged `first_version`.
    """

    step: int
    bp: int
    # 0 until the route is published, in the transaction that made the span.
    first_version: int = 0
    # The last one; 0 while it goes on.
    last_version: int = 0
    set_at: datetime | None = None
    # When the clock started; None until every gateway has acknowledged it.
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def evidence_from(self) -> datetime | None:
        """`started_at`, rounded up to a window."""
        if self.started_at is None:
            return None
        seconds = self.started_at.timestamp()
        return self.started_at + timedelta(seconds=-seconds % WINDOW_S)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the candidate, over the whole rollout."""

    requests: int = 0
    error_rate: float | None = None
    latency_p95_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Example:
    prediction_id: str
    served: str
    candidate: str


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Past requests through the candidate, against the answers that were given."""

    verdict: Literal["pass", "fail", "not_enough_data"]
    reason: str = ""
    requests: int = 0
    rows: int = 0
    failed: int = 0
    disagreement: float = 0.0
    distribution_distance: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    served_latency_p95_ms: float = 0.0
    labelled: int = 0
    accuracy: float | None = None
    served_accuracy: float | None = None
    accuracy_difference_lower: float | None = None
    log_loss: float | None = None
    served_log_loss: float | None = None
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """A shadow revision's answers beside those that callers got."""

    compared: int = 0
    agreement: float = 0.0
    agreement_lower: float = 0.0
    agreement_upper: float = 1.0
    distribution_distance: float = 0.0
    mean_score_difference: float = 0.0
    latency_p95_ms: float | None = None
    stable_latency_p95_ms: float | None = None
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Transition:
    """From one state, or step, to another. Numbers count from 1; the first one is the rollout's beginning."""

    number: int
    from_state: str
    to_state: State
    reason_code: str
    reason: str
    actor: str
    at: datetime
    # From 1; 0 before the first.
    step: int
    bp: int
    # 0 until the route is published, in the same transaction.
    route_version: int = 0
    criterion: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The aggregate. Shares in basis points; `steps` are the shares of the plan, `step` an index into them."""

    id: str
    workspace: str
    deployment_id: str
    environment: str
    model_id: str
    model_version: str
    stable_version: str
    candidate: str
    stable: str
    spec: RolloutSpec
    created_by: str
    # On whose behalf; neither of the two may approve it.
    requester: str
    created_at: datetime
    state: State = "pending"
    reason_code: str = ""
    reason: str = ""
    # When it came to its state.
    since: datetime | None = None
    steps: tuple[int, ...] = ()
    # -1 before the first one.
    step: int = -1
    spans: tuple[Span, ...] = ()
    # The first span that is judged: a person who goes on after a failed judgement has taken note of the rest.
    judged_from: int = 0
    # While paused: the state that it was paused in.
    held: State | None = None
    # Age at which labels count, s, and the margin of quality; None where it is not compared.
    maturity_s: float | None = None
    quality_margin: float | None = None
    verdict: Judgement | None = None
    figures: Figures = field(default_factory=Figures)
    replay: ReplayReport | None = None
    shadow: ShadowReport | None = None
    approved_by: str = ""
    approved_at: datetime | None = None
    rejected_by: str = ""
    # Of a rollback: when it was decided, and the route version that takes the traffic away (0: not yet published).
    rollback_at: datetime | None = None
    rollback_version: int = 0
    # What stays on the candidate after it.
    rest_bp: int = 0
    # The criterion that made it roll back.
    fired: str = ""
    warnings: tuple[str, ...] = ()
    requests_to_detect_doubling: int = 0
    ended_at: datetime | None = None
    # How many transitions it has had.
    transitions: int = 0
    # What a strategy remembers beside.
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Kafka's key of its deployment, its route and its windows."""
        return f"{self.workspace}/{self.deployment_id}"

    @property
    def is_live(self) -> bool:
        return self.state not in ENDED

    @property
    def span(self) -> Span | None:
        """The one that goes on now."""
        return self.spans[-1] if self.spans and self.spans[-1].ended_at is None else None

    @property
    def bp(self) -> int:
        """The share of the step."""
        span = self.span
        return span.bp if span else 0

    @property
    def percentage(self) -> float:
        """The candidate's share, also once it has ended."""
        if self.span is None and self.state == "succeeded" and self.spans:
            return self.spans[-1].bp / 100
        return (self.bp or self.rest_bp) / 100

    @property
    def window_s(self) -> float:
        """How long the old revision stays warm at 100 %."""
        return self.spec.window_s(self.maturity_s or 0.0)

    @property
    def step_length_s(self) -> float:
        """How long the step must last at least."""
        return self.window_s if self.bp == 10_000 else self.spec.interval_s

    @property
    def held_at_most_s(self) -> float:
        """How long it may be `analysing`."""
        return max(HELD_LENGTHS * self.step_length_s, HELD_S)

    @property
    def step_ends_at(self) -> datetime | None:
        """When the step can end at the earliest; None while its clock stands."""
        begins = self.span.evidence_from if self.span else None
        return begins + timedelta(seconds=self.step_length_s) if begins else None
