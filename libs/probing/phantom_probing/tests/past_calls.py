"""Prediction batches as a gateway logs them, of answers that a real server gave."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import numpy as np

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_contracts import topics
from phantom_contracts.events.upstream import OutcomeReported
from phantom_platform.ids import new_id
from phantom_platform.kafka.producer import Producer
from phantom_platform.testing.events import publish, record
from phantom_probing.client import Answers
from phantom_probing.rows import Rows

NUMBERS, TEXTS = ("amount", "hour"), ("channel",)


@dataclass
class Call:
    """One call as it is to be logged."""

    rows: Rows
    answers: Answers | None
    request_id: str = ""
    kind: int = wire.KIND_ANSWER
    status: int = 0
    decision: int = wire.DECISION_ROLLOUT
    prediction_id: str = ""
    row_offset: int = 0
    latency_us: int = 4000


class GatewayLog:
    """Writes one endpoint's batches."""

    def __init__(self, producer: Producer, endpoint: str, class_labels: tuple[str, ...]) -> None:
        self._producer = producer
        self.endpoint = endpoint
        self._class_labels = class_labels
        self._sequence = 0

    async def write(self, *calls: Call) -> list[str]:
        """One batch; returns the prediction ids."""
        batch = self._batch()
        for call in calls:
            call.prediction_id = call.prediction_id or new_id()
            self._add(batch, call)
        key = f"default/{self.endpoint}".encode()
        await self._producer.send(topics.PREDICTIONS.name, key, batch.SerializeToString(), [])
        return [call.prediction_id for call in calls]

    async def write_bytes(self, value: bytes) -> None:
        key = f"default/{self.endpoint}".encode()
        await self._producer.send(topics.PREDICTIONS.name, key, value, [])

    async def report(self, prediction_id: str, label: object, **more: object) -> None:
        fields = {"endpoint": self.endpoint, "event_time": datetime.now(UTC), "label": label, **more}
        if "request_id" not in more:
            fields["prediction_id"] = prediction_id
        outcome = OutcomeReported.model_validate(fields)
        await publish(self._producer, record(topics.OUTCOMES, outcome.key, outcome))

    def _batch(self) -> wire.PredictionBatch:
        self._sequence += 1
        return wire.PredictionBatch(
            workspace="default",
            endpoint=self.endpoint,
            boot_id="boot",
            sequence=self._sequence,
            revisions=["fraud.1"],
            variants=["control"],
            replicas=["r1"],
        )

    def _add(self, batch: wire.PredictionBatch, call: Call) -> None:
        now = time.time_ns() // 1000
        batch.prediction_ids += UUID(call.prediction_id).bytes
        batch.request_ids.append(call.request_id)
        batch.units.append("")
        batch.assigned_revisions.append(0)
        batch.served_revisions.append(0)
        batch.arms.append(0)
        batch.decisions.append(call.decision)
        batch.route_versions.append(1)
        batch.experiment_versions.append(0)
        batch.statuses.append(call.status)
        batch.kinds.append(call.kind)
        batch.received_us.append(now - call.latency_us)
        batch.answered_us.append(now)
        batch.rows.append(call.rows.count if call.answers else 0)
        batch.row_offsets.append(call.row_offset)
        batch.blocks_index.append(len(batch.blocks))
        batch.block_rows.append(0)
        batch.served_replicas.append(0)
        if call.answers is not None:
            batch.blocks.append(self._block(call.rows, call.answers))

    def _block(self, rows: Rows, answers: Answers) -> wire.Block:
        numbers = np.column_stack([rows.columns[name] for name in NUMBERS if name in rows.columns])
        texts = [rows.columns[name] for name in TEXTS if name in rows.columns]
        block = wire.Block(
            rows=rows.count,
            number_columns=[name for name in NUMBERS if name in rows.columns],
            category_columns=[name for name in TEXTS if name in rows.columns],
            numbers=numbers.astype("<f8").tobytes(),
            number_width=8,
            categories=[text for row in zip(*texts, strict=True) for text in row],
            class_labels=self._class_labels,
            runtime="xgboost",
        )
        if answers.labels is None:
            block.values = answers.scores.astype("<f8").tobytes()
            return block
        places = [self._class_labels.index(label) for label in answers.labels]
        block.label_indexes = np.array(places, dtype="<i4").tobytes()
        block.scores = answers.scores.astype("<f4").tobytes()
        assert answers.probabilities is not None
        block.probabilities = answers.probabilities.astype("<f4").tobytes()
        return block
