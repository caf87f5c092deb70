"""Decoded rows and their answers, packed for the prediction log, in blocks that fit a Kafka record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom.predictions.v1 import prediction_batch_pb2 as log
from phantom_model_server.decoding import Rows
from phantom_model_server.projection import Numbers, Projection
from phantom_runtimes import Predictions

MAX_ROWS = 512
MAX_BYTES = 384 * 1024


@dataclass(frozen=True, slots=True)
class Packed:
    """One call in the group: its index in the frame and its rows."""

    call: int
    rows: Rows


class Packer:
    """Packs what one model answered for one endpoint."""

    def __init__(self, projection: Projection, runtime: str) -> None:
        self._projection = projection
        self._runtime = runtime
        self._template = log.Block(
            number_columns=projection.number_columns,
            category_columns=projection.text_columns,
            class_labels=projection.model.class_labels,
            runtime=runtime,
        )

    def pack(self, calls: Sequence[Packed], numbers: Numbers, found: Predictions) -> list[pb.PackedBlock]:
        """Blocks of the calls' rows. `numbers` and `found` hold the rows of all calls, one after the other."""
        limit = self._rows_per_block(calls, numbers)
        total = len(numbers)
        texts = self._texts(calls)
        packed = []
        for start in range(0, total, limit):
            rows = slice(start, min(start + limit, total))
            block = self._block(numbers, found, texts, rows)
            entry = pb.PackedBlock()
            for call, offset, count in _parts(calls, rows):
                entry.calls.append(call.call)
                entry.row_offsets.append(offset)
                entry.rows.append(count)
                if offset == 0:
                    block.unknown_categories += call.rows.unknown
            entry.block = block.SerializeToString()
            packed.append(entry)
        return packed

    def _block(self, numbers: Numbers, found: Predictions, texts: list[list[str]], rows: slice) -> log.Block:
        block = log.Block()
        block.CopyFrom(self._template)
        block.rows = rows.stop - rows.start
        block.numbers = numbers[rows].tobytes()
        block.number_width = numbers.dtype.itemsize
        if texts:
            columns = [column[rows] for column in texts]
            block.categories.extend(chain.from_iterable(zip(*columns, strict=True)))
        if found.labels is not None:
            block.label_indexes = found.labels[rows].tobytes()
            block.scores = found.scores[rows].astype(np.float32).tobytes()
        if found.values is not None:
            block.values = found.values[rows].tobytes()
        if found.probabilities is not None:
            block.probabilities = found.probabilities[rows].tobytes()
        return block

    def _texts(self, calls: Sequence[Packed]) -> list[list[str]]:
        """Each text column of all rows; empty text where it did not come."""
        columns = []
        for place in range(len(self._projection.text_columns)):
            column: list[str] = []
            for call in calls:
                came = call.rows.texts[place] if call.rows.texts else None
                column.extend(repeat("", call.rows.count) if came is None else came)
            columns.append(column)
        return columns

    def _rows_per_block(self, calls: Sequence[Packed], numbers: Numbers) -> int:
        longest = max(
            (len(text) for call in calls for column in call.rows.texts if column for text in column),
            default=0,
        )
        classes = len(self._projection.model.class_labels)
        row = numbers.shape[1] * numbers.dtype.itemsize + 16 + 4 * classes
        row += len(self._projection.text_columns) * (4 * longest + 5)  # a character takes 4 bytes at most
        room = MAX_BYTES - int(self._template.ByteSize()) - 64
        fitting: int = max(1, min(MAX_ROWS, room // row))
        return fitting


def _parts(calls: Sequence[Packed], rows: slice) -> Iterator[tuple[Packed, int, int]]:
    """The calls that lie in these rows: call, offset of the part in the call, rows of it."""
    at = 0
    for call in calls:
        first, last = max(at, rows.start), min(at + call.rows.count, rows.stop)
        if first < last:
            yield call, first - at, last - first
        at += call.rows.count
        if at >= rows.stop:
            return
