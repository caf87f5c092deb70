"""Replays of what a real Kafka holds through real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import pytest_asyncio

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_contracts import topics
from phantom_contracts.schema import Feature, ModelSchema
from phantom_platform.errors import Refused, Unavailable
from phantom_platform.ids import new_id
from phantom_platform.kafka import Producer, ensure_topics
from phantom_probing import outcomes, past
from phantom_probing.client import Answers, Client, Target
from phantom_probing.replay import Limits, Order, replay
from phantom_probing.replay_report import Quality, Report, judged, to_message
from phantom_probing.rows import Rows

from .conftest import FRAUD, Serve, flights
from .past_calls import Call, GatewayLog

pytestmark = pytest.mark.integration
LEGIT_OR_FRAUD = ("legit", "fraud")


def some_rows(count: int, seed: int = 7) -> tuple[Rows, list[str]]:
    frame, fraud = flights(count, seed)
    columns = {
        "amount": frame.amount.to_numpy(dtype=float),
        "hour": frame.hour.to_numpy(dtype=float),
        "channel": [str(each) for each in frame.channel],
    }
    return Rows(columns, count), [LEGIT_OR_FRAUD[each] for each in fraud]


def answers(count: int, label: str = "legit") -> Answers:
    second = np.full(count, 0.9 if label == "fraud" else 0.1, dtype=np.float32)
    return Answers([label] * count, np.column_stack([1 - second, second]), second.astype(float), None, "1")


@pytest_asyncio.fixture(loop_scope="session")
async def producer(kafka_bootstrap: str) -> AsyncIterator[Producer]:
    await ensure_topics(kafka_bootstrap, [topics.PREDICTIONS, topics.OUTCOMES])
    made = Producer(kafka_bootstrap, client_id="replay-test")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def log(producer: Producer) -> GatewayLog:
    return GatewayLog(producer, f"fraud-{new_id()[-8:]}", LEGIT_OR_FRAUD)


async def written_by_good(log: GatewayLog, serve: Serve, count: int) -> tuple[list[str], list[str]]:
    """Calls of one row, 20 a batch, as version `good` answered them; (prediction ids, true labels)."""
    rows, truth = some_rows(count)
    async with serve("good") as client:
        served = await client.infer(rows)
    ids: list[str] = []
    for start in range(0, count, 20):
        calls = [
            Call(rows.part(at, at + 1), part(served, at, at + 1), request_id=f"{log.endpoint}-{at}")
            for at in range(start, min(start + 20, count))
        ]
        ids += await log.write(*calls)
    return ids, truth


def part(whole: Answers, start: int, stop: int) -> Answers:
    assert whole.labels is not None
    assert whole.probabilities is not None
    return Answers(
        whole.labels[start:stop], whole.probabilities[start:stop], whole.scores[start:stop], None, "1"
    )


async def test_the_version_that_served_agrees_with_itself_and_a_bad_one_does_not(
    kafka_bootstrap: str, log: GatewayLog, serve: Serve
) -> None:
    ids, truth = await written_by_good(log, serve, 240)
    for number, (prediction_id, label) in enumerate(zip(ids[:200], truth[:200], strict=True)):
        by = {"request_id": f"{log.endpoint}-{number}", "endpoint": "an-alias"} if number % 2 else {}
        await log.report(prediction_id, label == "fraud", **by)
    order = Order(log.endpoint, 220, aliases=frozenset(["an-alias"]))
    limits = Limits(0.01, 0.05, 500, 0.02)
    reports = {}
    for name in ("good", "bad"):
        async with serve(name) as client:
            reports[name] = await replay(kafka_bootstrap, order, client, limits, datetime.now(UTC))
    good, bad = reports["good"], reports["bad"]
    assert (good.requests, good.rows, good.failed, good.disagreement) == (220, 220, 0, 0.0)
    assert good.distribution_distance == 0
    assert good.quality.labelled == 180  # the newest 220 begin with the 21st call
    assert good.quality.accuracy == good.quality.served_accuracy
    assert good.quality.log_loss == pytest.approx(good.quality.served_log_loss, rel=1e-4)
    assert good.served_latency_p95_ms == 4
    assert good.latency_p95_ms is not None
    assert 0 < (good.latency_p50_ms or 0) <= good.latency_p95_ms
    assert (good.verdict, good.examples) == ("pass", ())
    assert bad.verdict == "fail"
    assert "answered differently" in bad.reason
    assert "accuracy is worse" in bad.reason
    assert bad.disagreement > 0.2
    assert bad.distribution_distance > 0.2
    assert bad.quality.accuracy is not None
    assert bad.quality.served_accuracy is not None
    assert bad.quality.accuracy < bad.quality.served_accuracy - 0.2
    assert (bad.quality.log_loss or 0) > (bad.quality.served_log_loss or 0)
    assert len(bad.examples) == 10
    assert bad.examples[0].served != bad.examples[0].candidate
    message = to_message(bad)
    assert message.verdict == "fail"
    assert message.accuracy == bad.quality.accuracy
    assert message.examples[0].prediction_id == bad.examples[0].id


async def test_only_the_endpoints_answered_calls_are_read_newest_first_and_once(
    kafka_bootstrap: str, log: GatewayLog, producer: Producer
) -> None:
    rows, _ = some_rows(10)
    first = await log.write(Call(rows.part(0, 1), answers(1)))
    other = GatewayLog(producer, f"{log.endpoint}-other", LEGIT_OR_FRAUD)
    await other.write(Call(rows.part(0, 1), answers(1)))
    await log.write(
        Call(rows.part(1, 2), None, status=13),
        Call(rows.part(1, 2), answers(1), kind=wire.KIND_SHADOW),
        Call(rows.part(1, 2), answers(1), decision=wire.DECISION_PIN),
        Call(rows.part(1, 2), answers(1), decision=wire.DECISION_OVERRIDE),
    )
    await log.write()  # a watermark only
    await log.write_bytes(b"\xff\xffnot a batch")
    last = await log.write(Call(rows.part(2, 4), answers(2)), Call(rows.part(4, 5), answers(1)))
    await log.write(Call(rows.part(2, 4), answers(2), prediction_id=last[0]))  # sent again
    found = await past.read(kafka_bootstrap, "default", log.endpoint, 10)
    assert {call.prediction_id for call in found.calls} == {*first, *last}
    assert found.reason == "the topic holds no more"
    newest = await past.read(kafka_bootstrap, "default", log.endpoint, 2)
    assert {call.prediction_id for call in newest.calls} == set(last)
    assert newest.reason == ""
    two = next(call for call in newest.calls if call.prediction_id == last[0])
    assert two.count == 2
    again = two.rows(["amount", "channel", "unknown"])
    np.testing.assert_array_equal(again.columns["amount"], rows.columns["amount"][2:4])
    assert again.columns["channel"] == rows.columns["channel"][2:4]
    assert "unknown" not in again.columns


async def test_many_records_of_others_are_looked_through(
    kafka_bootstrap: str, log: GatewayLog, producer: Producer
) -> None:
    rows, _ = some_rows(1)
    first = await log.write(Call(rows, answers(1)))
    key = f"default/{log.endpoint}".encode()
    partition = producer.choose(key, list(range(6)))
    for _ in range(300):
        producer.send_nowait(topics.PREDICTIONS.name, b"default/other", b"", [], partition=partition)
    await producer.flush()
    found = await past.read(kafka_bootstrap, "default", log.endpoint, 1)
    assert [call.prediction_id for call in found.calls] == first


async def test_a_call_in_several_records_is_one_again_and_half_of_one_is_none(
    kafka_bootstrap: str, log: GatewayLog
) -> None:
    rows, _ = some_rows(6)
    whole, half = new_id(), new_id()
    await log.write(Call(rows.part(0, 4), answers(4), prediction_id=whole))
    await log.write(
        Call(rows.part(4, 6), answers(2), prediction_id=whole, row_offset=4),
        Call(rows.part(4, 6), answers(2), prediction_id=half, row_offset=512),
    )
    found = await past.read(kafka_bootstrap, "default", log.endpoint, 10)
    assert [call.prediction_id for call in found.calls] == [whole]
    call = found.calls[0]
    assert call.count == 6
    np.testing.assert_array_equal(call.rows(["hour"]).columns["hour"], rows.columns["hour"])
    assert call.texts[0] == rows.columns["channel"]
    assert call.served.labels == ["legit"] * 6


async def test_memory_is_bounded(kafka_bootstrap: str, log: GatewayLog) -> None:
    rows, _ = some_rows(1)
    for _ in range(5):
        await log.write(Call(rows, answers(1)))
    found = await past.read(kafka_bootstrap, "default", log.endpoint, 5, max_bytes=1000)
    assert 1 <= len(found.calls) <= 5
    assert "MiB" in found.reason


async def test_the_newest_outcome_by_event_time_counts_once_it_is_mature(
    kafka_bootstrap: str, log: GatewayLog
) -> None:
    rows, _ = some_rows(4)
    ids = await log.write(*[Call(rows.part(at, at + 1), answers(1), "same") for at in range(4)])
    now = datetime.now(UTC)
    await log.report(ids[0], True)
    await log.report(ids[0], False, event_time=now - timedelta(hours=1))  # older news, later
    await log.report(ids[1], None, fields={"actual_fraud": True})
    await log.report(ids[2], True, event_time=now + timedelta(hours=1))  # from the future
    await log.report(ids[3], "perhaps")
    await log.report("", True, request_id="same", event_time=now + timedelta(seconds=30))
    await log.report(ids[3], True, workspace="another")
    calls = (await past.read(kafka_bootstrap, "default", log.endpoint, 10)).calls

    def question(schema: ModelSchema) -> outcomes.Question:
        return outcomes.Question("default", frozenset([log.endpoint]), calls, schema, datetime.now(UTC))

    labels, reason = await outcomes.read(kafka_bootstrap, question(FRAUD))
    assert reason == ""
    # The request id is the first call's, by answer time and id; its outcome is the newer one there.
    assert labels == {(ids[0], 0): "fraud", (ids[1], 0): "fraud"}
    assert FRAUD.outcome is not None
    late = FRAUD.model_copy(update={"outcome": FRAUD.outcome.model_copy(update={"maturity_s": 3600})})
    assert await outcomes.read(kafka_bootstrap, question(late)) == ({}, "")


async def test_nothing_to_replay_is_not_a_pass(
    kafka_bootstrap: str, producer: Producer, serve: Serve
) -> None:
    async with serve("good") as client:
        report = await replay(
            kafka_bootstrap, Order("nobody-asked"), client, Limits(max_disagreement=0.1), datetime.now(UTC)
        )
    assert (report.verdict, report.requests) == ("not_enough_data", 0)
    assert "no past requests" in report.reason


async def test_requests_that_the_candidate_refuses_fail_it(
    kafka_bootstrap: str, log: GatewayLog, serve
) -> None:
    rows, _ = some_rows(3)
    rows.columns["hour"][1] = np.nan  # which this version may not get
    await log.write(*[Call(rows.part(at, at + 1), answers(1)) for at in range(3)])
    async with serve("good") as client:
        report = await replay(kafka_bootstrap, Order(log.endpoint), client, Limits(), datetime.now(UTC))
    assert (report.requests, report.failed, report.rows) == (3, 1, 2)
    assert report.verdict == "fail"
    assert "hour" in report.reason


async def test_what_cannot_be_compared_is_refused(
    kafka_bootstrap: str, log: GatewayLog, serve: Serve
) -> None:
    rows, _ = some_rows(1)
    await log.write(Call(rows, answers(1)))
    now = datetime.now(UTC)
    wider = FRAUD.model_copy(update={"features": (*FRAUD.features, Feature(name="weight"))})
    async with Client(Target("127.0.0.1:1", "fraud"), wider) as client:
        with pytest.raises(Refused, match="weight") as error:
            await replay(kafka_bootstrap, Order(log.endpoint), client, Limits(), now)
        assert error.value.code == "replay_features_missing"
        with pytest.raises(Refused) as too_many:
            await replay(kafka_bootstrap, Order(log.endpoint, 100_001), client, Limits(), now)
        assert too_many.value.code == "replay_too_many_requests"
    number = ModelSchema(features=(Feature(name="amount"),), task="regression")
    async with Client(Target("127.0.0.1:1", "fraud"), number) as client:
        with pytest.raises(Refused) as changed:
            await replay(kafka_bootstrap, Order(log.endpoint), client, Limits(), now)
        assert changed.value.code == "replay_task_changed"
    async with Client(Target("127.0.0.1:1", "fraud"), FRAUD) as client:
        with pytest.raises(Unavailable):
            await replay(kafka_bootstrap, Order(log.endpoint), client, Limits(), now)


async def test_without_kafka_the_error_is_temporary() -> None:
    with pytest.raises(Unavailable) as error:
        await past.read("127.0.0.1:1", "default", "fraud", 10, timeout_s=5)
    assert error.value.code == "kafka_unavailable"


@pytest.mark.parametrize(
    ("report", "limits", "verdict"),
    [
        (Report(requests=100, rows=100, disagreement=0.02), Limits(max_disagreement=0.01), "fail"),
        (Report(requests=100, rows=100, disagreement=0.02), Limits(max_disagreement=0.02), "pass"),
        (Report(requests=100, distribution_distance=0.3), Limits(max_distribution_distance=0.2), "fail"),
        (Report(requests=100, latency_p95_ms=30), Limits(max_latency_p95_ms=20), "fail"),
        (Report(requests=10), Limits(max_latency_p95_ms=20), "not_enough_data"),
        (Report(requests=2000, failed=2), Limits(), "pass"),
        (Report(requests=2000, failed=3), Limits(), "fail"),
        (Report(requests=10), Limits(quality_margin=0.02), "not_enough_data"),
        (
            Report(requests=10, quality=Quality(10, difference_lower=-0.1, difference_upper=0.1)),
            Limits(quality_margin=0.02),
            "not_enough_data",
        ),
        (
            Report(requests=10, quality=Quality(10, difference_lower=-0.01, difference_upper=0.1)),
            Limits(quality_margin=0.02),
            "pass",
        ),
        (
            Report(requests=10, quality=Quality(10, difference_lower=-0.1, difference_upper=-0.03)),
            Limits(quality_margin=0.02),
            "fail",
        ),
    ],
)
def test_limits(report: Report, limits: Limits, verdict: str) -> None:
    found = judged(report, limits)
    assert found.verdict == verdict
    assert found.reason
