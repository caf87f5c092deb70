"""What became of past calls: their labels, read from the outcomes topic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from pydantic import ValidationError

from phantom_contracts import topics
from phantom_contracts.events.upstream import OutcomeReported
from phantom_contracts.outcomes import reported_label, true_label
from phantom_contracts.schema import ModelSchema
from phantom_platform.telemetry import logs
from phantom_probing.past import READ_TIMEOUT_S, Past, consumer_of, read_range

log = logs.get(__name__)

EARLIER = timedelta(minutes=5)
"""An outcome may stand in the topic so long before its prediction: clocks differ."""

AHEAD = timedelta(minutes=5)
"""Further ahead of now an outcome's time is a mistake, as it is for the monitor."""

Labels = dict[tuple[str, int], str]
"""(prediction id, row) → the label in the model's terms."""


@dataclass(frozen=True)
class Question:
    """Whose outcomes are wanted. `endpoints`: the endpoint and its aliases. Only calls older than the schema's
    maturity have a label: early ones would tell of quick outcomes only."""

    workspace: str
    endpoints: frozenset[str]
    calls: Sequence[Past]
    schema: ModelSchema
    now: datetime


async def read(bootstrap: str, question: Question, timeout_s: float = READ_TIMEOUT_S) -> tuple[Labels, str]:
    """Labels by prediction id and row, the newest by event time; and why some may be missing, empty if none are.

    Raises `Unavailable` where Kafka is away.
    """
    wanted = _Wanted(question)
    if not wanted.predictions:
        return {}, ""
    reason = ""
    since = min(call.answered_us for call in question.calls) // 1000 - int(EARLIER.total_seconds() * 1000)
    async with consumer_of(bootstrap, topics.OUTCOMES.name) as consumer:
        try:
            async with asyncio.timeout(timeout_s):
                await _read_since(consumer, since, wanted)
        except TimeoutError:
            reason = f"reading outcomes took longer than {timeout_s:g} s"
    return wanted.labels(), reason


async def _read_since(consumer: AIOKafkaConsumer, since_ms: int, wanted: _Wanted) -> None:
    places = [TopicPartition(topics.OUTCOMES.name, number) for number in range(topics.OUTCOMES.partitions)]
    consumer.assign(places)
    starts = await consumer.offsets_for_times(dict.fromkeys(places, max(0, since_ms)))
    stops = await consumer.end_offsets(places)
    for place in places:
        start = starts.get(place)
        if start is not None:
            async for record in read_range(consumer, place, start.offset, stops[place]):
                wanted.take(record)


@dataclass
class _Newest:
    order: tuple[datetime, int, int]
    outcome: OutcomeReported


@dataclass
class _Wanted:
    question: Question
    predictions: dict[str, Past] = field(default_factory=dict)
    requests: dict[str, Past] = field(default_factory=dict)
    newest: dict[tuple[str, int], _Newest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        outcome = self.question.schema.outcome
        maturity = timedelta(seconds=outcome.maturity_s if outcome else 0)
        matured_us = int((self.question.now - maturity).timestamp() * 1_000_000)
        for call in self.question.calls:
            if call.answered_us <= matured_us:
                self.predictions[call.prediction_id] = call
                # Among equal ids the first answered one has the outcome; the calls come in that order.
                if call.request_id:
                    self.requests.setdefault(call.request_id, call)

    def take(self, record: ConsumerRecord) -> None:
        key = (record.key or b"").decode(errors="replace")
        if key not in self.predictions and key not in self.requests:
            return
        try:
            outcome = OutcomeReported.model_validate_json(record.value or b"")
        except ValidationError as error:
            log.warning(
                "outcome skipped", action="replay_bad_outcome", offset=record.offset, reason=str(error)[:200]
            )
            return
        call = self._call_of(outcome)
        if call is None or outcome.event_time > self.question.now + AHEAD:
            return
        order = (outcome.event_time, record.partition, record.offset)
        place = (call.prediction_id, outcome.row)
        known = self.newest.get(place)
        if known is None or known.order < order:
            self.newest[place] = _Newest(order, outcome)

    def _call_of(self, outcome: OutcomeReported) -> Past | None:
        if outcome.workspace != self.question.workspace:
            return None
        if outcome.prediction_id is not None:
            return self.predictions.get(outcome.prediction_id.lower())
        if outcome.endpoint not in self.question.endpoints:
            return None
        return self.requests.get(outcome.request_id or "")

    def labels(self) -> Labels:
        schema = self.question.schema
        found = {
            place: true_label(reported_label(each.outcome, schema), schema, schema.class_labels)
            for place, each in self.newest.items()
        }
        return {place: label for place, label in found.items() if label is not None}
