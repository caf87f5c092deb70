"""A batch that comes twice is a mistake, unless it says that it may."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_demo.topic import _read

PLACE = TopicPartition("predictions", 0)
ID = uuid.UUID(int=7)


class Consumer:
    """One poll of these records."""

    def __init__(self, *records: SimpleNamespace) -> None:
        self._records = list(records)

    async def position(self, place: TopicPartition) -> int:
        return 0 if self._records else 2

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        records, self._records = self._records, []
        return {PLACE: records}


def record(*headers: tuple[str, bytes]) -> SimpleNamespace:
    batch = wire.PredictionBatch(
        endpoint="flights-prod", boot_id="boot", sequence=1, prediction_ids=ID.bytes,
        statuses=[0], kinds=[wire.KIND_ANSWER], row_offsets=[0],
    )  # fmt: skip
    return SimpleNamespace(value=batch.SerializeToString(), headers=headers)


@pytest.mark.parametrize(("headers", "times"), [((), 2), ((("phantom_maybe_sent", b"true"),), 1)])
async def test_only_a_marked_repeat_of_a_batch_is_left_out(
    headers: tuple[tuple[str, bytes], ...], times: int
) -> None:
    found = await _read(Consumer(record(), record(*headers)), {PLACE: 2}, "flights-prod")
    assert found == {str(ID): times}
