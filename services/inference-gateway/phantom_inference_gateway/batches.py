"""Prediction records gathered into one `PredictionBatch`, column by column, without decoding a tensor.

Pure: no clock, socket or file. A builder holds what one endpoint answered since its last batch; `encode` makes
the message's bytes. Blocks are copied as the model server packed them: they are appended as wire bytes of field
`blocks`, each once a batch, however many records point into it.
"""

from __future__ import annotations

from dataclasses import dataclass

from phantom.predictions.v1.prediction_batch_pb2 import (
    DECISION_SHADOW,
    KIND_ANSWER,
    KIND_SHADOW,
    FailedAttempt,
    PredictionBatch,
)
from phantom_contracts.protobuf import varint
from phantom_inference_gateway.calls import Entry, Part

MAX_ROWS = 512
"""Rows a batch, and records a batch where calls without rows are many."""
MAX_BYTES = 512 * 1024
MAX_BLOCK_BYTES = 1024 * 1024
"""Model servers pack at most 384 KiB; a block beyond this could not be sent and is left out."""
MAX_TEXT = 1024
"""Characters of a request id or unit that are kept."""

_FIXED_COST = 110  # bytes a record costs besides its texts and its block: ids, times, versions, indexes
_ATTEMPT_COST = 160
_NO_BLOCK: Part = (b"", 0, 0, 0)
_BLOCKS_TAG = b"\xfa\x01"  # field 31, length-delimited


@dataclass(slots=True, eq=False)
class Batch:
    """One encoded PredictionBatch and what is needed to send it, now or after years in a file."""

    partition: int
    # `<workspace>/<endpoint>`
    key: str
    boot_id: str
    sequence: int
    value: bytes
    records: int
    # When it was closed, Unix milliseconds.
    time_ms: int
    # Whether it may be in the topic already.
    maybe_sent: bool = False
    traceparent: str = ""

    @property
    def id(self) -> str:
        """Identity across resends."""
        return f"{self.boot_id}/{self.partition}/{self.sequence}"


class BatchBuilder:
    """The open batch of one endpoint."""

    __slots__ = ("_block_index", "_blocks", "_records", "key", "rows", "size", "traceparent")

    def __init__(self, key: str) -> None:
        self.key = key
        self.clear()

    def clear(self) -> None:
        """Forget every record."""
        # entry, answered_us, block, first row in it, rows, row offset
        self._records: list[tuple[Entry, int, int, int, int, int]] = []
        self._blocks: list[bytes] = []
        self._block_index: dict[int, int] = {}
        self.rows = 0
        self.size = 0
        self.traceparent = ""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def oldest_us(self) -> int:
        """The earliest answer time in the batch; records come in time order."""
        return self._records[0][1]

    @property
    def is_full(self) -> bool:
        """Whether no further record fits."""
        return self.rows >= MAX_ROWS or self.size >= MAX_BYTES

    def add(self, entry: Entry, answered_us: int, part: Part) -> bool:
        """Append a record; False, with nothing changed, where it belongs into the next batch."""
        block, block_row, rows, offset = part
        cost = cost_of(entry)
        index = 0
        if block:
            # Identity is enough: `_blocks` keeps the object alive, so its id is its own.
            known = self._block_index.get(id(block))
            if known is None:
                cost += len(block)
                index = len(self._blocks)
            else:
                index = known
        weight = rows or 1
        if self._records and (self.rows + weight > MAX_ROWS or self.size + cost > MAX_BYTES):
            return False
        if block and index == len(self._blocks):
            self._block_index[id(block)] = index
            self._blocks.append(block)
        self._records.append((entry, answered_us, index, block_row, rows, offset))
        self.rows += weight
        self.size += cost
        return True

    def encode(self, boot_id: str, sequence: int, watermark_us: int) -> bytes:
        """A serialised PredictionBatch. Raises ValueError where a text is no UTF-8."""
        workspace, _, endpoint = self.key.partition("/")
        batch = PredictionBatch(
            workspace=workspace,
            endpoint=endpoint,
            boot_id=boot_id,
            sequence=sequence,
            watermark_us=watermark_us,
        )
        if not self._records:
            return batch.SerializeToString()
        self._columns(batch)
        head = batch.SerializeToString()
        if not self._blocks:
            return head
        pieces = [head]
        for block in self._blocks:
            pieces += (_BLOCKS_TAG, varint(len(block)), block)
        return b"".join(pieces)

    def _columns(self, batch: PredictionBatch) -> None:
        entries, answered, blocks, block_rows, rows, offsets = zip(*self._records, strict=True)
        revisions: dict[str, int] = {}
        variants: dict[str, int] = {}
        replicas: dict[str, int] = {}
        batch.prediction_ids = b"".join([each.prediction_id for each in entries])
        batch.request_ids.extend([shorten(each.request_id) for each in entries])
        batch.units.extend([shorten(each.unit) for each in entries])
        batch.assigned_revisions.extend(
            [revisions.setdefault(each.assigned_revision, len(revisions)) for each in entries]
        )
        batch.served_revisions.extend(
            [revisions.setdefault(each.served_revision, len(revisions)) for each in entries]
        )
        batch.served_replicas.extend(
            [replicas.setdefault(each.served_replica, len(replicas)) for each in entries]
        )
        batch.arms.extend([variants.setdefault(each.arm, len(variants)) for each in entries])
        decisions = [each.decision for each in entries]
        batch.decisions.extend(decisions)
        batch.route_versions.extend([each.route_version for each in entries])
        batch.experiment_versions.extend([each.experiment_version for each in entries])
        batch.statuses.extend([each.status for each in entries])
        if DECISION_SHADOW in decisions:
            batch.kinds.extend(
                [KIND_SHADOW if each == DECISION_SHADOW else KIND_ANSWER for each in decisions]
            )
        else:
            batch.kinds.extend([KIND_ANSWER] * len(entries))
        batch.received_us.extend([each.received_us for each in entries])
        batch.answered_us.extend(answered)
        batch.rows.extend(rows)
        batch.row_offsets.extend(offsets)
        batch.blocks_index.extend(blocks)
        batch.block_rows.extend(block_rows)
        batch.revisions.extend(revisions)
        batch.variants.extend(variants)
        batch.replicas.extend(replicas)
        for number, (entry, *_, offset) in enumerate(self._records):
            # Once a call, however many records it spans.
            if entry.failed_attempts and offset == 0:
                _add_attempts(batch, number, entry)

    def mend(self) -> None:
        """Replace what is no UTF-8 in the texts of the records, so that `encode` cannot fail on them."""
        for entry, *_ in self._records:
            for name in (
                "request_id",
                "unit",
                "assigned_revision",
                "served_revision",
                "served_replica",
                "arm",
            ):
                setattr(entry, name, getattr(entry, name).encode("utf-8", "replace").decode())
            for attempt in entry.failed_attempts:
                attempt.revision = attempt.revision.encode("utf-8", "replace").decode()
                attempt.replica = attempt.replica.encode("utf-8", "replace").decode()


def parts_of(entry: Entry) -> list[Part]:
    """The records that a call becomes: one a part, parts of more than 512 rows cut; one where it has no rows."""
    parts: list[Part] = []
    for block, block_row, rows, offset in entry.parts:
        if len(block) > MAX_BLOCK_BYTES:
            parts.append((b"", 0, 0, offset))
            continue
        for start in range(0, rows, MAX_ROWS):
            parts.append((block, block_row + start, min(MAX_ROWS, rows - start), offset + start))
    return parts or [_NO_BLOCK]


def cost_of(entry: Entry) -> int:
    """Bytes that a record takes in the message, at most, without its block."""
    request_id, unit = entry.request_id, entry.unit
    cost = _FIXED_COST + len(request_id) + len(unit)
    if cost > _FIXED_COST + MAX_TEXT:
        cost = _FIXED_COST + min(len(request_id), MAX_TEXT) + min(len(unit), MAX_TEXT)
    if not (request_id.isascii() and unit.isascii()):
        cost += 3 * (cost - _FIXED_COST)
    if entry.failed_attempts:
        cost += _ATTEMPT_COST * len(entry.failed_attempts)
    return cost


def shorten(text: str) -> str:
    """The first 1,024 characters."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT]


def _add_attempts(batch: PredictionBatch, number: int, entry: Entry) -> None:
    batch.failed_attempts.extend(
        [
            FailedAttempt(
                record=number,
                revision=each.revision,
                replica=each.replica,
                code=each.code,
                # A clock that went back is no reason to lose a batch.
                latency_us=min(max(each.latency_us, 0), 0xFFFF_FFFF),
            )
            for each in entry.failed_attempts
        ]
    )
