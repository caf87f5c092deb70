"""Decoded rows and their answers, packed for the prediction log, in blocks that fit a Kafka record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from phantom.predictions.v1 import prediction_batch_pb2 as log
from phantom_contracts.protobuf import tag, varint
from phantom_model_server.answers import Encoded
from phantom_model_server.projection import Numbers, Projection
from phantom_model_server.requests import Call

MAX_ROWS = 512
MAX_BYTES = 384 * 1024

_BLOCK = tag(1)  # of a PackedBlock
_CALL, _OFFSET, _COUNT = (tag(number, delimited=False) for number in (2, 3, 4))
_ROWS, _NUMBER_WIDTH, _UNKNOWN = (tag(number, delimited=False) for number in (1, 5, 13))  # of a Block
_NUMBERS, _CATEGORIES, _LABELS, _VALUES, _SCORES, _PROBABILITIES = (tag(n) for n in (4, 6, 7, 9, 10, 11))


class Packer:
    """Packs what one model answered for one endpoint."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._templates: dict[str, bytes] = {}  # what all blocks of a runtime have in common, serialized

    def pack(
        self, calls: Sequence[Call], numbers: Numbers, found: Encoded, rows: int, runtime: str
    ) -> list[bytes]:
        """Serialized PackedBlocks of the calls' rows, which lie one after the other in `numbers` and `found`."""
        template = self._templates.get(runtime) or self._template(runtime)
        limit = self._rows_per_block(calls, numbers, len(template))
        texts = self._texts(calls)
        columns = [(_NUMBERS, numbers.tobytes())]
        if found.labels:
            columns += (
                (_LABELS, found.label_indexes),
                (_SCORES, found.scores),
                (_PROBABILITIES, found.probabilities),
            )
        else:
            columns.append((_VALUES, found.values))
        made = []
        for start in range(0, rows, limit):
            stop = min(start + limit, rows)
            block = [template, _NUMBER_WIDTH, varint(numbers.itemsize), _ROWS, varint(stop - start)]
            for field, column in columns:
                width = len(column) // rows
                block += (field, varint((stop - start) * width), column[start * width : stop * width])
            if texts:
                block.append(_categories(texts, start, stop))
            parts, unknown = _parts(calls, start, stop)
            if unknown:
                block += (_UNKNOWN, varint(unknown))
            content = b"".join(block)
            made.append(b"".join((_BLOCK, varint(len(content)), content, *parts)))
        return made

    def _template(self, runtime: str) -> bytes:
        made = log.Block(
            number_columns=self._projection.number_columns,
            category_columns=self._projection.text_columns,
            class_labels=self._projection.model.class_labels,
            runtime=runtime,
        ).SerializeToString()
        self._templates[runtime] = made
        return made

    def _texts(self, calls: Sequence[Call]) -> list[list[str]]:
        """Each text column of all rows; empty text where it did not come."""
        columns: list[list[str]] = []
        for place in range(len(self._projection.text_columns)):
            column: list[str] = []
            for call in calls:
                came = call.rows.texts[place] if call.rows.texts else None
                column.extend(repeat("", call.rows.count) if came is None else came)
            columns.append(column)
        return columns

    def _rows_per_block(self, calls: Sequence[Call], numbers: Numbers, used: int) -> int:
        classes = len(self._projection.model.class_labels)
        row = numbers.shape[1] * numbers.dtype.itemsize + 16 + 4 * classes
        if self._projection.text_columns:
            longest = max(
                (len(text) for call in calls for column in call.rows.texts if column for text in column),
                default=0,
            )
            row += len(self._projection.text_columns) * (4 * longest + 5)  # a character: 4 bytes at most
        fitting: int = (MAX_BYTES - used - 64) // row
        return max(1, min(MAX_ROWS, fitting))


def _categories(texts: list[list[str]], start: int, stop: int) -> bytes:
    """The field `categories`, row by row; an element that is empty is written, too."""
    parts: list[bytes] = []
    for row in zip(*[column[start:stop] for column in texts], strict=True):
        for text in row:
            content = text.encode()
            parts += (_CATEGORIES, varint(len(content)), content)
    return b"".join(parts)


def _parts(calls: Sequence[Call], start: int, stop: int) -> tuple[list[bytes], int]:
    """The calls that lie in these rows, as fields of a PackedBlock; and the unknown categories of those that begin
    there.
    """
    fields: list[bytes] = []
    at = unknown = 0
    for call in calls:
        end = at + call.rows.count
        first, last = max(at, start), min(end, stop)
        if first < last:
            if first == at:
                unknown += call.rows.unknown
            # not packed, as a reader takes both and there is most often one
            fields += (_CALL, varint(call.index), _OFFSET, varint(first - at), _COUNT, varint(last - first))
        at = end
        if at >= stop:
            break
    return fields, unknown
