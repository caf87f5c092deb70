"""Past calls of an endpoint, read from the prediction topic from its end backwards.

Calls that pinned a version or overrode the route are left out: they are tests and looks at a candidate, no traffic of
the endpoint's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from google.protobuf.message import DecodeError

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_contracts import topics
from phantom_platform.kafka.closing import close
from phantom_platform.kafka.failures import CONNECTION_ERRORS, as_phantom
from phantom_platform.telemetry import logs
from phantom_probing.rows import Column, Numbers, Rows

log = logs.get(__name__)

FIRST_STEP, LARGEST_STEP = 64, 2048
"""Kafka records that one look back goes: doubled each time, as most records may be of other endpoints."""

_CHOSEN = (wire.DECISION_PIN, wire.DECISION_OVERRIDE)  # by the caller

MAX_BYTES = 256 << 20
READ_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Served:
    """What was answered to the rows of a call."""

    class_labels: tuple[str, ...]  # empty for regression
    labels: list[str] | None  # [rows]
    scores: Numbers  # [rows]: the score, or the value
    probabilities: npt.NDArray[np.float32] | None  # [rows, class labels]


@dataclass(frozen=True)
class Past:
    """One answered call with its rows, as the endpoint's columns."""

    prediction_id: str
    request_id: str
    revision: str
    answered_us: int
    latency_ms: float
    number_columns: tuple[str, ...]
    numbers: npt.NDArray[np.floating]  # [rows, number columns], NaN where missing
    text_columns: tuple[str, ...]
    texts: list[list[str]]  # a text column each, empty where missing
    served: Served

    @property
    def count(self) -> int:
        return len(self.numbers)

    @property
    def columns(self) -> frozenset[str]:
        return frozenset((*self.number_columns, *self.text_columns))

    def rows(self, features: Sequence[str], optional: frozenset[str] = frozenset()) -> Rows:
        """Those of the features that were sent; an optional one that is missing in every row is left out."""
        places = {name: place for place, name in enumerate(self.number_columns)}
        texts = dict(zip(self.text_columns, self.texts, strict=True))
        found: dict[str, Column] = {}
        for name in features:
            if name in places:
                column = self.numbers[:, places[name]].astype(np.float64)
                if not (name in optional and np.isnan(column).all()):
                    found[name] = column
            elif name in texts and not (name in optional and not any(texts[name])):
                found[name] = texts[name]
        return Rows(found, self.count)


@dataclass(frozen=True)
class Found:
    """Calls by answer time, oldest first. `reason` says why there are fewer than were asked for."""

    calls: list[Past]
    reason: str = ""


async def read(
    bootstrap: str,
    workspace: str,
    endpoint: str,
    most: int,
    timeout_s: float = READ_TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> Found:
    """The newest answered calls of an endpoint (its canonical name), at most `most`.

    Calls that failed, pinned calls and shadow copies do not count. Raises `Unavailable` where Kafka is away.
    """
    key = f"{workspace}/{endpoint}".encode()
    collected = _Collected(most, max_bytes)
    async with consumer_of(bootstrap, topics.PREDICTIONS.name) as consumer:
        try:
            async with asyncio.timeout(timeout_s):
                await _look_back(consumer, key, collected)
        except TimeoutError:
            collected.reason = f"reading took longer than {timeout_s:g} s"
    return Found(collected.calls(), collected.reason)


@asynccontextmanager
async def consumer_of(bootstrap: str, doing: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group. Kafka's failures leave the block as ours."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
        request_timeout_ms=15_000,
    )
    try:
        await consumer.start()
        yield consumer
    except CONNECTION_ERRORS as error:
        raise as_phantom(error, f"reading {doing}") from error
    finally:
        await close(consumer)


async def read_range(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int, stop: int
) -> AsyncIterator[ConsumerRecord]:
    """The records of offsets [start, stop) of an assigned partition."""
    consumer.seek(place, start)
    while await consumer.position(place) < stop:
        polled = await consumer.getmany(place, timeout_ms=500)
        for record in polled.get(place, ()):
            if record.offset < stop:
                yield record


async def _look_back(consumer: AIOKafkaConsumer, key: bytes, collected: _Collected) -> None:
    numbers = list(range(topics.PREDICTIONS.partitions))
    place = TopicPartition(topics.PREDICTIONS.name, DefaultPartitioner()(key, numbers, numbers))
    consumer.assign([place])
    first = (await consumer.beginning_offsets([place]))[place]
    stop = (await consumer.end_offsets([place]))[place]
    step = FIRST_STEP
    while stop > first and not collected.is_full:
        start = max(first, stop - step)
        async for record in read_range(consumer, place, start, stop):
            if record.key == key and record.value:
                collected.add(record.value, record.offset)
        stop, step = start, min(2 * step, LARGEST_STEP)
    if not collected.is_full:
        collected.reason = "the topic holds no more"


@dataclass
class _Part:
    """A record of a call: all of its rows, or those from `offset` on."""

    offset: int
    call: Past


@dataclass
class _Collected:
    most: int
    max_bytes: int
    reason: str = ""
    parts: dict[bytes, dict[int, _Part]] = field(default_factory=dict)
    size: int = 0

    @property
    def is_full(self) -> bool:
        if self.size >= self.max_bytes and not self.reason:
            self.reason = f"the newest calls fill {self.max_bytes >> 20} MiB"
        # one more: the oldest may be the end of a call that began earlier
        return len(self.parts) > self.most or bool(self.reason)

    def add(self, value: bytes, place: int) -> None:
        try:
            for prediction_id, part in _answers(wire.PredictionBatch.FromString(value)):
                # a batch that was sent twice is the same
                self.parts.setdefault(prediction_id, {})[part.offset] = part
                self.size += part.call.numbers.nbytes + 400
        except (DecodeError, ValueError, IndexError) as error:
            log.warning(
                "prediction batch skipped", action="replay_bad_batch", offset=place, reason=repr(error)
            )

    def calls(self) -> list[Past]:
        whole = [call for parts in self.parts.values() if (call := _whole(parts)) is not None]
        whole.sort(key=lambda call: (call.answered_us, call.prediction_id))
        return whole[-self.most :] if self.most else []


def _whole(parts: dict[int, _Part]) -> Past | None:
    """The call of these parts; None where its beginning, or a part between, was not read."""
    ordered = [parts[offset] for offset in sorted(parts)]
    expected = 0
    for part in ordered:
        if part.offset != expected:
            return None
        expected += part.call.count
    calls = [part.call for part in ordered]
    return calls[0] if len(calls) == 1 else _joined(calls)


def _joined(calls: list[Past]) -> Past:
    first, served = calls[0], [call.served for call in calls]
    probabilities = [each.probabilities for each in served if each.probabilities is not None]
    return Past(
        first.prediction_id,
        first.request_id,
        first.revision,
        first.answered_us,
        first.latency_ms,
        first.number_columns,
        np.concatenate([call.numbers for call in calls]),
        first.text_columns,
        [[text for call in calls for text in call.texts[place]] for place in range(len(first.texts))],
        Served(
            first.served.class_labels,
            None
            if first.served.labels is None
            else [label for each in served for label in each.labels or ()],
            np.concatenate([each.scores for each in served]),
            np.concatenate(probabilities) if probabilities else None,
        ),
    )


def _answers(m: wire.PredictionBatch) -> Iterator[tuple[bytes, _Part]]:
    blocks: dict[int, _Block] = {}
    for i, status in enumerate(m.statuses):
        if m.kinds[i] != wire.KIND_ANSWER or status != 0 or not m.rows[i] or m.decisions[i] in _CHOSEN:
            continue
        number = m.blocks_index[i]
        block = blocks.get(number) or blocks.setdefault(number, _Block(m.blocks[number]))
        start = m.block_rows[i]
        prediction_id = m.prediction_ids[16 * i : 16 * i + 16]
        stop = start + m.rows[i]
        call = Past(
            prediction_id=str(UUID(bytes=prediction_id)),
            request_id=m.request_ids[i],
            revision=m.revisions[m.served_revisions[i]],
            answered_us=m.answered_us[i],
            latency_ms=(m.answered_us[i] - m.received_us[i]) / 1000,
            number_columns=block.number_columns,
            numbers=block.numbers[start:stop].copy(),
            text_columns=block.text_columns,
            texts=[column[start:stop] for column in block.texts],
            served=block.served(start, stop),
        )
        yield prediction_id, _Part(m.row_offsets[i], call)


class _Block:
    """A decoded block. ValueError where its columns are not as long as it says."""

    def __init__(self, block: wire.Block) -> None:
        rows = block.rows
        self.number_columns = tuple(block.number_columns)
        self.text_columns = tuple(block.category_columns)
        self.class_labels = tuple(block.class_labels)
        width = len(self.number_columns)
        layout = "<f4" if block.number_width == 4 else "<f8"
        self.numbers = np.frombuffer(block.numbers, layout).reshape(rows, width)
        texts = list(block.categories)
        if len(texts) != rows * len(self.text_columns):
            raise ValueError(f"a block of {rows} rows holds {len(texts)} categories")
        self.texts = [texts[place :: len(self.text_columns)] for place in range(len(self.text_columns))]
        self._labels = np.frombuffer(block.label_indexes, "<i4") if self.class_labels else None
        scores = (
            np.frombuffer(block.scores, "<f4") if self.class_labels else np.frombuffer(block.values, "<f8")
        )
        self._scores = scores.astype(np.float64)
        self._probabilities = None
        if block.probabilities:
            found = np.frombuffer(block.probabilities, "<f4")
            self._probabilities = found.reshape(rows, len(self.class_labels))
        if len(self._scores) != rows or (self._labels is not None and len(self._labels) != rows):
            raise ValueError(f"a block of {rows} rows holds {len(self._scores)} answers")

    def served(self, start: int, stop: int) -> Served:
        labels = None
        if self._labels is not None:
            labels = [self.class_labels[index] for index in self._labels[start:stop].tolist()]
        probabilities = self._probabilities
        return Served(
            self.class_labels,
            labels,
            self._scores[start:stop].copy(),
            None if probabilities is None else probabilities[start:stop].copy(),
        )
