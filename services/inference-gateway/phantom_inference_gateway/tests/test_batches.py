"""Columns, limits and blocks of a batch."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.predictions.v1.prediction_batch_pb2 import (
    DECISION_EXPERIMENT,
    DECISION_SHADOW,
    KIND_ANSWER,
    KIND_SHADOW,
    Block,
    PredictionBatch,
)
from phantom_contracts.protobuf import varint
from phantom_inference_gateway.batches import (
    MAX_BLOCK_BYTES,
    MAX_BYTES,
    MAX_ROWS,
    BatchBuilder,
    parts_of,
)
from phantom_inference_gateway.calls import Entry, FailedAttempt, Part

_numbers = itertools.count(1)


def entry(
    *parts: Part, request_id: str = "r", unit: str = "N1", attempts: tuple = (), **more: object
) -> Entry:
    fields = {
        "assigned_revision": "m-prod.2",
        "served_revision": "m-prod.1",
        "served_replica": "m-prod.1-a",
        "arm": "candidate",
        "decision": DECISION_EXPERIMENT,
        "route_version": 7,
        "experiment_version": 3,
        "status": 0,
        "received_us": 1000,
    } | more
    return Entry(
        "default/delays",
        next(_numbers).to_bytes(16, "big"),
        request_id,
        unit,
        parts=parts,
        failed_attempts=attempts,
        **fields,
    )


def block(rows: int, size: int = 100) -> bytes:
    return Block(rows=rows, numbers=bytes(size), number_width=8).SerializeToString()


def test_every_column_arrives_as_it_was_given() -> None:
    builder = BatchBuilder("default/delays")
    shared = block(3)
    attempt = FailedAttempt("m-prod.2", "m-prod.2-a", 14, 5000)
    first = entry((shared, 0, 1, 0), request_id="first")
    second = entry((shared, 1, 2, 0), request_id="", unit="", attempts=(attempt,), arm="control", status=0)
    failed = entry(request_id="third", served_revision="", served_replica="", status=14)
    for number, each in enumerate((first, second, failed)):
        assert builder.add(each, 2000 + number, each.parts[0] if each.parts else (b"", 0, 0, 0))

    batch = PredictionBatch.FromString(builder.encode("boot", 9, 1234))

    assert (batch.workspace, batch.endpoint, batch.boot_id, batch.sequence) == (
        "default",
        "delays",
        "boot",
        9,
    )
    assert batch.watermark_us == 1234
    assert batch.prediction_ids == first.prediction_id + second.prediction_id + failed.prediction_id
    assert list(batch.request_ids) == ["first", "", "third"]
    assert list(batch.units) == ["N1", "", "N1"]
    assert [batch.revisions[each] for each in batch.assigned_revisions] == ["m-prod.2"] * 3
    assert [batch.revisions[each] for each in batch.served_revisions] == ["m-prod.1", "m-prod.1", ""]
    assert [batch.replicas[each] for each in batch.served_replicas] == ["m-prod.1-a", "m-prod.1-a", ""]
    assert [batch.variants[each] for each in batch.arms] == ["candidate", "control", "candidate"]
    assert list(batch.decisions) == [DECISION_EXPERIMENT] * 3
    assert list(batch.route_versions) == [7] * 3
    assert list(batch.experiment_versions) == [3] * 3
    assert list(batch.statuses) == [0, 0, 14]
    assert list(batch.kinds) == [KIND_ANSWER] * 3
    assert list(batch.received_us) == [1000] * 3
    assert list(batch.answered_us) == [2000, 2001, 2002]
    assert list(batch.rows) == [1, 2, 0]
    assert list(batch.block_rows) == [0, 1, 0]
    assert list(batch.row_offsets) == [0, 0, 0]
    only = batch.failed_attempts[0]
    assert (only.record, only.revision, only.replica, only.code, only.latency_us) == (
        1,
        "m-prod.2",
        "m-prod.2-a",
        14,
        5000,
    )


def test_a_shared_block_is_in_the_batch_once_and_unchanged() -> None:
    builder = BatchBuilder("default/delays")
    one, other = block(64), block(64)
    for row in range(64):
        builder.add(entry((one, row, 1, 0)), 1, (one, row, 1, 0))
        builder.add(entry((other, row, 1, 0)), 1, (other, row, 1, 0))
    batch = PredictionBatch.FromString(builder.encode("boot", 1, 1))
    assert [each.SerializeToString() for each in batch.blocks] == [one, other]
    assert list(batch.blocks_index) == [0, 1] * 64


def test_a_batch_takes_512_rows_and_no_more() -> None:
    builder = BatchBuilder("default/delays")
    shared = block(512)
    for row in range(MAX_ROWS):
        assert builder.add(entry(), 1, (shared, row, 1, 0))
    assert builder.is_full
    assert not builder.add(entry(), 1, (shared, 0, 1, 0))
    assert len(builder) == MAX_ROWS


def test_failed_calls_without_rows_fill_a_batch_too() -> None:
    builder = BatchBuilder("default/delays")
    for _ in range(MAX_ROWS):
        assert builder.add(entry(status=14), 1, (b"", 0, 0, 0))
    assert not builder.add(entry(status=14), 1, (b"", 0, 0, 0))


def test_a_block_that_does_not_fit_belongs_into_the_next_batch() -> None:
    builder = BatchBuilder("default/delays")
    big = block(10, 384 * 1024)
    assert builder.add(entry(), 1, (big, 0, 10, 0))
    assert not builder.add(entry(), 1, (block(10, 384 * 1024), 0, 10, 0))
    assert builder.add(entry(), 1, (big, 0, 10, 0))  # this one is there already
    assert len(builder.encode("boot", 1, 1)) < MAX_BYTES


def test_a_large_call_is_split_by_rows_with_offsets() -> None:
    one, other = block(700), block(300)
    parts = parts_of(entry((one, 0, 700, 0), (other, 0, 300, 700)))
    assert parts == [(one, 0, 512, 0), (one, 512, 188, 512), (other, 0, 300, 700)]
    assert parts_of(entry()) == [(b"", 0, 0, 0)]


def test_a_block_that_could_not_be_sent_is_left_out_and_the_record_stays() -> None:
    assert parts_of(entry((bytes(MAX_BLOCK_BYTES + 1), 0, 5, 10))) == [(b"", 0, 0, 10)]


def test_failed_attempts_stand_once_though_the_call_spans_records() -> None:
    builder = BatchBuilder("default/delays")
    shared = block(20)
    call = entry((shared, 0, 10, 0), (shared, 10, 10, 10), attempts=(FailedAttempt("a", "b", 14, -3),))
    for part in parts_of(call):
        builder.add(call, 1, part)
    batch = PredictionBatch.FromString(builder.encode("boot", 1, 1))
    assert [(each.record, each.latency_us) for each in batch.failed_attempts] == [(0, 0)]


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "𝔘" * 2000])
def test_long_texts_are_cut_and_the_batch_stays_within_its_bound(text: str) -> None:
    builder = BatchBuilder("default/delays")
    while builder.add(entry(request_id=text, unit=text), 1, (b"", 0, 0, 0)):
        pass
    value = builder.encode("boot", 1, 1)
    assert len(value) <= MAX_BYTES
    assert set(PredictionBatch.FromString(value).units) == {text[:1024]}


def test_a_text_that_is_no_utf8_is_mended() -> None:
    builder = BatchBuilder("default/delays")
    builder.add(entry(request_id="bad \ud800"), 1, (b"", 0, 0, 0))
    with pytest.raises(ValueError):
        builder.encode("boot", 1, 1)
    builder.mend()
    assert list(PredictionBatch.FromString(builder.encode("boot", 1, 1)).request_ids) == ["bad ?"]


def test_an_empty_batch_carries_only_its_watermark() -> None:
    batch = PredictionBatch.FromString(BatchBuilder("team/delays").encode("boot", 4, 99))
    assert (batch.workspace, batch.endpoint, batch.sequence, batch.watermark_us) == ("team", "delays", 4, 99)
    assert not batch.prediction_ids
    assert not batch.blocks


@given(st.integers(0, 2**40))
def test_varints_are_protobufs(value: int) -> None:
    # field 4 (sequence) of the message, as a varint
    assert PredictionBatch.FromString(b"\x20" + varint(value)).sequence == value


def test_answers_of_shadows_are_of_their_own_kind() -> None:
    builder = BatchBuilder("default/delays")
    for decision in (DECISION_EXPERIMENT, DECISION_SHADOW, DECISION_EXPERIMENT):
        builder.add(entry(decision=decision), 1, (b"", 0, 0, 0))
    batch = PredictionBatch.FromString(builder.encode("boot", 1, 1))
    assert list(batch.kinds) == [KIND_ANSWER, KIND_SHADOW, KIND_ANSWER]
