"""Past requests through a candidate, before it gets any live one: would it have answered alike, as fast, as well?

Rows go to the candidate as the endpoint's model server decoded them. What the candidate answers is held against what
was answered then, and where outcomes are known both are held against those.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from phantom_contracts.schema import ModelSchema
from phantom_platform.errors import PhantomError, Refused, Unavailable
from phantom_probing import outcomes, past, quality
from phantom_probing.client import Answers, Client, decode
from phantom_probing.distance import distance, values_distance
from phantom_probing.measure import QUANTILES_FROM, quantile
from phantom_probing.outcomes import Labels
from phantom_probing.past import Past
from phantom_probing.replay_report import Example, Limits, Quality, Report, judged

MAX_EXAMPLES = 10
MAX_REQUESTS = 100_000
SAME = 1e-6
"""Values of a regression that lie this close to each other, relative, agree: as in the monitor."""

QUALITY_CONFIDENCE = 0.9
"""Two-sided, so that each end of the interval is a bound at 95 %."""

RUN_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Order:
    """Which requests. `endpoint` is the canonical name; its aliases matter for outcomes only."""

    endpoint: str
    requests: int = 1000
    workspace: str = "default"
    aliases: frozenset[str] = frozenset()
    read_timeout_s: float = past.READ_TIMEOUT_S
    run_timeout_s: float = RUN_TIMEOUT_S
    in_flight: int = 1


Progress = Callable[[float], None]


async def replay(
    bootstrap: str,
    order: Order,
    candidate: Client,
    limits: Limits,
    now: datetime,
    progress: Progress | None = None,
) -> Report:
    """Reads, runs and judges. Raises `Unavailable` where Kafka or the candidate is away, and Refused
    `replay_too_many_requests`, `replay_features_missing`, `replay_task_changed`.
    """
    if not 1 <= order.requests <= MAX_REQUESTS:
        raise Refused(
            f"{order.requests} requests cannot be replayed; between 1 and {MAX_REQUESTS:,} can",
            code="replay_too_many_requests",
        )
    found = await past.read(bootstrap, order.workspace, order.endpoint, order.requests, order.read_timeout_s)
    check_comparable(found.calls, candidate.schema)
    question = outcomes.Question(
        order.workspace, order.aliases | {order.endpoint}, found.calls, candidate.schema, now
    )
    labels, missing = await outcomes.read(bootstrap, question, order.read_timeout_s)
    report = await run(candidate, found.calls, labels, order.in_flight, order.run_timeout_s, progress)
    is_short = len(found.calls) < order.requests
    notes = [found.reason if is_short else "", missing, report.note]
    return judged(replace(report, note="; ".join(filter(None, notes))), limits)


def check_comparable(calls: Sequence[Past], schema: ModelSchema) -> None:
    """Refused where the candidate needs a feature that no call brought, or answers something else altogether."""
    if not calls:
        return
    sent = frozenset().union(*(call.columns for call in calls))
    missing = [feature.name for feature in schema.features if feature.required and feature.name not in sent]
    if missing:
        raise Refused(
            f"the candidate requires {', '.join(missing[:20])}, which none of the past requests brought; they cannot "
            "be replayed through it",
            code="replay_features_missing",
            features=missing[:20],
        )
    if any((call.served.labels is None) != (schema.task == "regression") for call in calls):
        raise Refused(
            f"the candidate is a {schema.task} model and the past answers are of another kind; they cannot be compared",
            code="replay_task_changed",
        )


async def run(
    candidate: Client,
    calls: Sequence[Past],
    labels: Labels | Mapping[tuple[str, int], str],
    in_flight: int = 1,
    timeout_s: float = RUN_TIMEOUT_S,
    progress: Progress | None = None,
) -> Report:
    """The figures, not judged. When the time is over they are of the newest calls, which are run first."""
    running = _Run(candidate, len(calls), progress)
    waiting = iter(reversed(calls))
    note = ""
    try:
        async with asyncio.timeout(timeout_s):
            await running.all_of(waiting, in_flight)
    except TimeoutError:
        note = f"after {timeout_s:g} s {len(running.done) + running.failed} of {len(calls)} requests were replayed"
    # Of many calls the figures take seconds, in which whoever runs this must go on.
    report = await asyncio.to_thread(running.report, labels)
    return replace(report, note=note)


@dataclass
class _Run:
    candidate: Client
    total: int
    progress: Progress | None
    done: list[tuple[Past, Answers, float]] = field(default_factory=list)
    failed: int = 0
    first_error: str = ""

    async def all_of(self, waiting: Iterator[Past], in_flight: int) -> None:
        async def go_on() -> None:
            for call in waiting:
                await self._one(call)
                if self.progress is not None and (len(self.done) + self.failed) % 100 == 0:
                    self.progress((len(self.done) + self.failed) / self.total)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(go_on())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _one(self, call: Past) -> None:
        schema = self.candidate.schema
        names = [feature.name for feature in schema.features]
        optional = frozenset(feature.name for feature in schema.features if not feature.required)
        body = self.candidate.request(call.rows(names, optional))
        try:
            answer, took_ms = await self._timed(body)
            answers = decode(answer, schema)
        except PhantomError as error:
            if isinstance(error, Unavailable) and not self.done:
                raise
            self.failed += 1
            self.first_error = self.first_error or f"{call.prediction_id}: {error.code}: {error.message}"
            return
        self.done.append((call, answers, took_ms))

    async def _timed(self, body: bytes) -> tuple[bytes, float]:
        """Once more where the candidate was away for a moment."""
        try:
            return await self.candidate.timed(body)
        except Unavailable:
            return await self.candidate.timed(body)

    def report(self, labels: Mapping[tuple[str, int], str]) -> Report:
        base = Report(requests=len(self.done) + self.failed, failed=self.failed, first_error=self.first_error)
        if not self.done:
            return base
        took = np.array([took_ms for _, _, took_ms in self.done])
        served = np.array([call.latency_ms for call, _, _ in self.done])
        is_enough = len(took) >= QUANTILES_FROM
        same = [_agrees(call, answers) for call, answers, _ in self.done]
        rows = sum(len(each) for each in same)
        return replace(
            base,
            rows=rows,
            disagreement=1 - sum(int(each.sum()) for each in same) / rows,
            distribution_distance=self._distance(),
            latency_p50_ms=quantile(took, 0.5),
            latency_p95_ms=quantile(took, 0.95) if is_enough else None,
            served_latency_p95_ms=quantile(served, 0.95) if is_enough else None,
            examples=tuple(itertools.islice(self._examples(same), MAX_EXAMPLES)),
            quality=self._quality(labels),
        )

    def _distance(self) -> float:
        mine = np.concatenate([answers.scores for _, answers, _ in self.done])
        theirs = np.concatenate([call.served.scores for call, _, _ in self.done])
        if self.candidate.schema.task == "regression":
            return values_distance(mine, theirs)
        labels = [label for _, answers, _ in self.done for label in answers.labels or ()]
        served = [label for call, _, _ in self.done for label in call.served.labels or ()]
        return distance(mine, theirs, labels, served)

    def _examples(self, same: Sequence[np.ndarray]) -> Iterator[Example]:
        for (call, answers, _), agrees in zip(self.done, same, strict=True):
            for row in np.flatnonzero(~agrees):
                mark = f"/{row}" if row else ""
                served = call.served.labels[row] if call.served.labels else f"{call.served.scores[row]:g}"
                mine = answers.labels[row] if answers.labels else f"{answers.scores[row]:g}"
                yield Example(f"{call.prediction_id}{mark}", served, mine)

    def _quality(self, labels: Mapping[tuple[str, int], str]) -> Quality:
        """Accuracy and log loss of both on the rows whose label is known; of classifiers."""
        known = [
            (call, answers, row, label)
            for call, answers, _ in self.done
            for row in range(call.count)
            if (label := labels.get((call.prediction_id, row))) is not None
        ]
        if not known or self.candidate.schema.task == "regression":
            return Quality(len(known))
        mine = np.array([(answers.labels or [])[row] == label for _, answers, row, label in known])
        theirs = np.array([(call.served.labels or [])[row] == label for call, _, row, label in known])
        difference = quality.paired_shares(mine, theirs, QUALITY_CONFIDENCE)
        losses = [
            pair
            for call, answers, row, label in known
            if (pair := _losses(call, answers, row, label, self.candidate.schema)) is not None
        ]
        return Quality(
            labelled=len(known),
            accuracy=float(mine.mean()),
            served_accuracy=float(theirs.mean()),
            difference_lower=difference.lower,
            difference_upper=difference.upper,
            log_loss=float(np.mean([a for a, _ in losses])) if losses else None,
            served_log_loss=float(np.mean([b for _, b in losses])) if losses else None,
        )


def _agrees(call: Past, answers: Answers) -> np.ndarray:
    """[rows]"""
    if answers.labels is not None and call.served.labels is not None:
        pairs = zip(answers.labels, call.served.labels, strict=True)
        return np.fromiter((mine == served for mine, served in pairs), dtype=bool)
    mine, served = answers.scores, call.served.scores
    return np.abs(mine - served) <= SAME * np.maximum(np.abs(mine), np.abs(served))


def _losses(
    call: Past, answers: Answers, row: int, label: str, schema: ModelSchema
) -> tuple[float, float] | None:
    """Of candidate and served; None where one of them does not know the class, or gave no probabilities."""
    if answers.probabilities is None or call.served.probabilities is None:
        return None
    if label not in schema.class_labels or label not in call.served.class_labels:
        return None
    mine = answers.probabilities[row, schema.class_labels.index(label)]
    served = call.served.probabilities[row, call.served.class_labels.index(label)]
    return quality.log_loss_of(float(mine)), quality.log_loss_of(float(served))
