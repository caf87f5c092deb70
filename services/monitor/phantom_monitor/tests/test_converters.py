from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_monitor.converters import decode_batch
from phantom_platform.errors import Invalid

from .conftest import Call, batch_bytes


def changed(change: object) -> bytes:
    message = wire.PredictionBatch.FromString(batch_bytes([Call(), Call(p_fraud=0.9)], sequence=1))
    change(message)  # type: ignore[operator]
    return message.SerializeToString()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.ClearField("boot_id"),
        lambda m: m.ClearField("request_ids"),
        lambda m: setattr(m, "prediction_ids", b"short"),
        lambda m: m.assigned_revisions.__setitem__(0, 99),
        lambda m: m.decisions.__setitem__(0, 0),
        lambda m: m.decisions.__setitem__(0, wire.DECISION_SHADOW),
        lambda m: m.kinds.__setitem__(0, wire.KIND_SHADOW),
        lambda m: setattr(m.blocks[0], "label_indexes", b"\xff\xff\xff\xff\x00\x00\x00\x00"),
        lambda m: setattr(m.blocks[0], "label_indexes", b"\x02\x00\x00\x00\x00\x00\x00\x00"),
        lambda m: setattr(m.blocks[0], "scores", b"123"),
        lambda m: m.blocks_index.__setitem__(0, 7),
    ],
)
def test_a_batch_that_does_not_hang_together_is_undecodable(change: object) -> None:
    with pytest.raises(Invalid) as caught:
        decode_batch(changed(change), 0)
    assert caught.value.code == "undecodable"


@given(st.binary(max_size=200))
def test_garbage_is_undecodable_or_a_batch(content: bytes) -> None:
    with suppress(Invalid):  # anything else that it raises fails the test
        decode_batch(content, 0)


def test_a_batch_without_a_value_is_undecodable() -> None:
    with pytest.raises(Invalid):
        decode_batch(None, 0)
