"""Shadow revisions: counted apart, compared with the answers, labelled as these are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from phantom_contracts import metrics as catalogue
from phantom_monitor.domain.counts import Agreement, WindowCounts, WindowKey
from phantom_monitor.domain.labels import Predicted
from phantom_monitor.domain.shadows import Pair, agreement
from phantom_monitor.export import Exporter
from phantom_monitor.store import PostgresPredictions, PostgresWindows
from phantom_platform.ids import uuid7

from .conftest import NOON, Call, World, batch, us
from .test_monitor import counts, outcome, published, report


def pair(shadow: Call, answer: Call) -> tuple[Call, Call]:
    """The copy and the answer of one call."""
    id = uuid7()
    shadow.prediction_id = answer.prediction_id = id
    shadow.revision, shadow.is_shadow = "fraud-prod.2", True
    return shadow, answer


async def shadow_counts(world: World) -> WindowCounts:
    summary = await world.monitor.summary("default", "fraud-prod", 0, us(NOON))
    return summary["fraud-prod.2", "shadow", "shadow"][0]


async def test_what_a_shadow_answered_is_counted_apart(world: World) -> None:
    copy, answer = pair(Call(p_fraud=0.9, latency_ms=9), Call(request_id="r1"))
    failed, _ = pair(Call(status=14), Call())
    await world.record(batch([copy, answer, failed], sequence=1))
    shadow = await shadow_counts(world)
    assert (shadow.requests, shadow.answered, shadow.failed_attempts) == (2, 1, 1)
    assert (shadow.classes, shadow.latency_ms.count) == ({"fraud": 1}, 1)
    assert sum(group.failures for group in shadow.groups.values()) == 1
    found = await counts(world)
    assert (found["answered_calls"], found["answered_rows"], found["failed_calls"]) == (1, 1, 0)
    assert await world.database.fetchval("SELECT count(*) FROM predictions") == 1
    registry = CollectorRegistry()
    exporter = Exporter(
        PostgresWindows(world.database), PostgresPredictions(world.database), world.clock, registry
    )
    await exporter.refresh()
    answered = [
        (sample.labels["decision"], sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == catalogue.REQUESTS.name
    ]
    assert answered == [("rollout", 1.0)]


@pytest.mark.parametrize("order", [("shadow", "answer"), ("answer", "shadow"), ("both",)])
async def test_a_shadow_is_compared_with_the_answer_whichever_comes_first(
    world: World, order: Sequence[str]
) -> None:
    same = pair(Call(p_fraud=0.75), Call(p_fraud=0.5))
    other = pair(Call(p_fraud=0.25), Call(p_fraud=0.75))
    alone = pair(Call(p_fraud=0.25), Call(status=14))
    parts = {"shadow": [0], "answer": [1], "both": [0, 1]}
    for number, what in enumerate(order):
        calls = [both[i] for both in (same, other, alone) for i in parts[what]]
        found = batch(calls, sequence=number + 1)
        await world.record(found)
        await world.record(found)  # again: counted once
    assert (await shadow_counts(world)).agreement == Agreement(2, 1, -0.25, 0.3125, 0.75)
    (window,) = [w for w in await published(world, NOON + timedelta(seconds=6)) if w.decision == "shadow"]
    assert (window.arm, window.revision) == ("shadow", "fraud-prod.2")
    assert window.agreement is not None
    assert (window.agreement.compared, window.agreement.agreed) == (2, 1)


async def test_a_pair_counts_where_both_are_known(world: World) -> None:
    copy, answer = pair(Call(at=NOON), Call(at=NOON + timedelta(seconds=4)))
    await world.record(batch([copy], sequence=1), batch([answer], sequence=2))
    windows = await world.monitor.windows("default", "fraud-prod", (0, us(NOON)), 10, None)
    compared = {
        w.key.start_s % 60: w.counts.agreement is not None for w in windows if w.key.decision == "shadow"
    }
    assert compared == {0: False, 5: True}


@pytest.mark.parametrize("order", ["outcome first", "shadow first", "shadow last"])
async def test_a_shadow_is_labelled_as_the_answer_is(world: World, order: str) -> None:
    copy, answer = pair(Call(p_fraud=0.9), Call(p_fraud=0.25, request_id="r1"))
    batches = {
        "outcome first": [[copy, answer]],
        "shadow first": [[copy], [answer]],
        "shadow last": [[answer]],
    }
    if order == "outcome first":
        await report(world, outcome("r1", True))
    for number, calls in enumerate(batches[order]):
        await world.record(batch(calls, sequence=number))
    if order != "outcome first":
        await report(world, outcome("r1", True))
    if order == "shadow last":
        await world.record(batch([copy], sequence=9))
    assert await world.accuracy() == (1, 0.0)
    assert {
        label: q.confusion for label, q in (await shadow_counts(world)).quality.items() if q.confusion
    } == {"fraud": {"fraud": 1}}
    await report(world, outcome("r1", False, at=NOON + timedelta(seconds=1)))
    shadow = await shadow_counts(world)
    assert {label: q.confusion for label, q in shadow.quality.items() if q.confusion} == {
        "legit": {"fraud": 1}
    }
    assert sum(group.labelled for group in shadow.groups.values()) == 1
    assert sum(group.correct for group in shadow.groups.values()) == 0


async def test_old_shadow_rows_go_with_their_answers(world: World) -> None:
    await world.record(batch(pair(Call(), Call()), sequence=1))
    await world.monitor.forget_old(NOON + timedelta(days=6))
    assert await world.database.fetchval("SELECT count(*) FROM shadow_rows") == 1
    await world.monitor.forget_old(NOON + timedelta(days=8))
    assert await world.database.fetchval("SELECT count(*) FROM shadow_rows") == 0


@pytest.mark.parametrize(("shadow", "answer", "agreed"), [(1e6, 1e6 + 0.5, 1), (1.0, 1.1, 0), (0.0, 0.0, 1)])
def test_values_agree_within_a_millionth(shadow: float, answer: float, agreed: int) -> None:
    def row(value: float) -> Predicted:
        key = WindowKey("default", "e", "r", "shadow", "shadow", 1, "", 0)
        return Predicted(key, "p", "", 0, 0, None, None, (), None, value, None)

    found = agreement(Pair(row(shadow), 0, row(answer), 0)).agreement
    assert found is not None
    assert (found.agreed, found.difference) == (agreed, shadow - answer)
