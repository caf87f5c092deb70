"""Wire to values: prediction batches as the gateways log them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from google.protobuf.message import DecodeError

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_monitor.domain.answers import SHADOW, Answer, Block
from phantom_platform.errors import Invalid

_DECISIONS = {
    wire.DECISION_ROLLOUT: "rollout",
    wire.DECISION_EXPERIMENT: "experiment",
    wire.DECISION_PIN: "pin",
    wire.DECISION_OVERRIDE: "override",
    wire.DECISION_SHADOW: SHADOW,
}
_KINDS = frozenset({wire.KIND_ANSWER, wire.KIND_SHADOW})


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: who sent it, its number there, its promise, its answers and the answers of shadows."""

    workspace: str
    endpoint: str
    boot_id: str
    partition: int
    sequence: int
    watermark_us: int
    answers: tuple[Answer, ...]


def decode_batch(value: bytes | None, partition: int) -> Batch:
    """A batch from its bytes. Raises Invalid `undecodable`, saying what does not fit."""
    message = wire.PredictionBatch()
    try:
        message.ParseFromString(value or b"")
        if not (message.workspace and message.endpoint and message.boot_id):
            raise ValueError("it names no workspace, endpoint or gateway process")
        answers = tuple(_answers(message))
    except (DecodeError, ValueError, IndexError) as error:
        raise Invalid(f"no prediction batch: {error}", code="undecodable") from error
    return Batch(
        message.workspace,
        message.endpoint,
        message.boot_id,
        partition,
        message.sequence,
        message.watermark_us,
        answers,
    )


def _answers(message: wire.PredictionBatch) -> list[Answer]:
    count = len(message.statuses)
    ids = message.prediction_ids
    if len(ids) != 16 * count:
        raise ValueError(f"{count} records have {len(ids)} bytes of prediction ids")
    blocks = [_block(block) for block in message.blocks]
    failed: dict[int, list[tuple[str, int]]] = {}
    for attempt in message.failed_attempts:
        failed.setdefault(attempt.record, []).append((attempt.revision, attempt.code))
    make = partial(_answer, message, blocks, failed)
    return [make(i) for i in range(count) if message.kinds[i] in _KINDS]


def _answer(
    m: wire.PredictionBatch, blocks: list[Block], failed: dict[int, list[tuple[str, int]]], i: int
) -> Answer:
    decision = _DECISIONS.get(m.decisions[i])
    if decision is None:
        raise ValueError(f"record {i} has the unknown decision {m.decisions[i]}")
    if (decision == SHADOW) != (m.kinds[i] == wire.KIND_SHADOW):
        raise ValueError(f"record {i} has the decision {decision} and the kind {m.kinds[i]}")
    rows, has_block = m.rows[i], bool(blocks) and m.rows[i] > 0
    block = blocks[m.blocks_index[i]] if has_block else None
    return Answer(
        workspace=m.workspace,
        endpoint=m.endpoint,
        prediction_id=m.prediction_ids[16 * i : 16 * i + 16],
        request_id=m.request_ids[i],
        unit=m.units[i],
        assigned=m.revisions[m.assigned_revisions[i]],
        served=m.revisions[m.served_revisions[i]],
        arm=SHADOW if decision == SHADOW else m.variants[m.arms[i]],
        decision=decision,
        route_version=m.route_versions[i],
        status=m.statuses[i],
        received_us=m.received_us[i],
        answered_us=m.answered_us[i],
        rows=rows,
        row_offset=m.row_offsets[i],
        block=block,
        block_row=m.block_rows[i],
        failed=failed.get(i, []),
    )


def _block(block: wire.Block) -> Block:
    classes = len(block.class_labels)
    labels = _array(block.label_indexes, "<i4", block.rows) if block.label_indexes else None
    if labels is not None and len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"a label index is outside the block's {classes} class labels")
    return Block(
        class_labels=tuple(block.class_labels),
        labels=labels,
        probabilities=(
            _array(block.probabilities, "<f4", block.rows * classes).reshape(block.rows, classes)
            if block.probabilities
            else None
        ),
        scores=_array(block.scores, "<f4", block.rows) if block.scores else None,
        values=_array(block.values, "<f8", block.rows) if block.values else None,
    )


def _array(content: bytes, dtype: str, count: int) -> np.ndarray:
    array = np.frombuffer(content, dtype)
    if len(array) != count:
        raise ValueError(f"a block of {count} numbers holds {len(array)}")
    return array
