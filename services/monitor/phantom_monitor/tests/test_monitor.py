from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from phantom_contracts.events.monitor import WindowPublished, WindowsClosed
from phantom_monitor import service
from phantom_monitor.domain.completeness import Reading
from phantom_monitor.values import Reported
from phantom_platform.errors import Invalid
from phantom_platform.ids import uuid7

from .conftest import FRAUD, NOON, Call, World, batch, us

READING = Reading(since_s=0, last_s=NOON.timestamp())


def outcome(
    id: str, label: object, *, kind: str = "request", at: datetime = NOON, offset: int = 1
) -> Reported:
    return Reported("default", "fraud-prod", kind, id, 0, us(at), 0, offset, label, {})  # type: ignore[arg-type]


async def report(world: World, *outcomes: Reported) -> None:
    async with world.database.transaction() as tx:
        await world.monitor.record_outcomes(tx, outcomes)


async def published(world: World, now: datetime) -> list[WindowPublished]:
    async with world.database.transaction() as tx:
        await tx.execute("DELETE FROM outbox")
    await world.monitor.publish_windows(READING, now)
    windows, _ = await announced(world)
    return windows


async def announced(world: World) -> tuple[list[WindowPublished], list[WindowsClosed]]:
    """What waits to be sent; of one look at least, closings stand behind the windows."""
    values = [row["value"] for row in await world.database.fetch("SELECT value FROM outbox ORDER BY id")]
    windows = [value for value in values if b'"revision_no"' in value]
    closings = [value for value in values if b'"until"' in value]
    assert len(windows) + len(closings) == len(values)
    assert not windows or not closings or values[-1] == closings[-1]
    return (
        [WindowPublished.model_validate_json(value) for value in windows],
        [WindowsClosed.model_validate_json(value) for value in closings],
    )


async def counts(world: World) -> dict[str, object]:
    return await world.monitor.counts("default", "fraud-prod")


async def test_a_batch_that_comes_again_is_counted_once(world: World) -> None:
    first = batch([Call(), Call(p_fraud=0.9, unit="u2")], sequence=1)
    await world.record(first)
    await world.record(first, batch([Call()], sequence=2))
    found = await counts(world)
    assert (found["answered_calls"], found["answered_rows"], found["repeated_batches"]) == (3, 3, 1)


async def test_batches_of_two_gateways_with_one_number_are_two(world: World) -> None:
    await world.record(batch([Call()], sequence=1), batch([Call()], sequence=1, boot_id="boot-b"))
    assert (await counts(world))["answered_calls"] == 2


async def test_failed_calls_are_no_answers_and_are_charged_to_who_failed(world: World) -> None:
    calls = [
        Call(status=14, revision="fraud-prod.2", arm="candidate"),
        Call(status=1, revision="fraud-prod.2", arm="candidate"),
        Call(status=3, revision="fraud-prod.2", arm="candidate"),
        Call(revision="fraud-prod.2", served="fraud-prod.1", arm="candidate", failed=[("fraud-prod.2", 13)]),
    ]
    await world.record(batch(calls, sequence=1))
    summary = await world.monitor.summary("default", "fraud-prod", 0, us(NOON))
    candidate, _ = summary["fraud-prod.2", "candidate", "rollout"]
    stable, _ = summary["fraud-prod.1", "candidate", "rollout"]
    assert (candidate.requests, candidate.answered) == (4, 1)
    assert (candidate.rejected_inputs, candidate.fallbacks) == (1, 1)
    assert sum(group.rejected for group in candidate.groups.values()) == 1
    assert (candidate.attempts, candidate.failed_attempts) == (3, 2)
    assert (stable.requests, stable.attempts, stable.failed_attempts) == (0, 1, 0)
    assert (await counts(world))["failed_calls"] == 3


@pytest.mark.parametrize("order", [("prediction", "outcome"), ("outcome", "prediction")])
async def test_an_outcome_joins_whichever_comes_first(world: World, order: Sequence[str]) -> None:
    for what in order:
        if what == "prediction":
            await world.record(batch([Call(p_fraud=0.75, request_id="r1")], sequence=1))
        else:
            await report(world, outcome("r1", True))
    assert await world.accuracy() == (1, 1.0)
    _, figures = (await world.monitor.summary("default", "fraud-prod", 0, us(NOON)))[
        "fraud-prod.1", "control", "rollout"
    ]
    assert figures.log_loss == pytest.approx(-math.log(0.75))
    found = await counts(world)
    assert (found["outcomes_joined"], found["outcomes_waiting"]) == (1, 0)


async def test_an_outcome_joins_by_prediction_id(world: World) -> None:
    id = uuid7()
    await report(world, outcome(str(id), True, kind="prediction"))
    await world.record(batch([Call(p_fraud=0.1, prediction_id=id)], sequence=1))
    assert await world.accuracy() == (1, 0.0)


async def test_the_label_may_come_as_the_field_that_the_schema_names(world: World) -> None:
    await world.record(batch([Call(p_fraud=0.9, request_id="r1")], sequence=1))
    await report(
        world,
        Reported("default", "fraud-prod", "request", "r1", 0, us(NOON), 0, 1, None, {"actual_fraud": True}),
    )
    assert await world.accuracy() == (1, 1.0)


async def test_the_newest_outcome_by_event_time_wins_and_a_repeat_changes_nothing(world: World) -> None:
    await world.record(batch([Call(p_fraud=0.9, request_id="r1")], sequence=1))
    late, early = (
        outcome("r1", False, at=NOON, offset=2),
        outcome("r1", True, at=NOON - timedelta(hours=1), offset=9),
    )
    await report(world, late)
    await report(world, early)
    assert await world.accuracy() == (1, 0.0)
    await report(world, late)
    assert await world.accuracy() == (1, 0.0)
    await report(world, outcome("r1", True, at=NOON + timedelta(seconds=1)))
    assert await world.accuracy() == (1, 1.0)


async def test_the_first_answer_of_a_request_id_takes_the_outcome_even_when_it_arrives_late(
    world: World,
) -> None:
    repeat = Call(p_fraud=0.9, request_id="r1", at=NOON)
    await world.record(batch([repeat], sequence=1))
    await report(world, outcome("r1", True))
    assert await world.accuracy() == (1, 1.0)
    first = Call(
        p_fraud=0.1, request_id="r1", at=NOON - timedelta(seconds=8), revision="fraud-prod.2", arm="candidate"
    )
    await world.record(batch([first], sequence=1, boot_id="boot-b"))
    assert await world.accuracy() == (0, None)
    assert await world.accuracy("fraud-prod.2", "candidate") == (1, 0.0)
    assert (await counts(world))["duplicates"] == 1


async def test_an_outcome_from_the_future_is_refused(world: World) -> None:
    with pytest.raises(Invalid, match="from the future"):
        await report(world, outcome("r1", True, at=NOON + timedelta(minutes=6)))


async def test_a_window_is_complete_once_every_gateway_has_passed_its_end(world: World) -> None:
    async with world.database.transaction() as tx:
        await world.monitor.gateway_joined(tx, "boot-a", NOON)
        await world.monitor.gateway_joined(tx, "boot-b", NOON)
    await world.record(batch([Call()], sequence=1, watermark=NOON))
    now = NOON + timedelta(seconds=6)
    (partial,) = await published(world, now)
    assert (partial.state, partial.revision_no, partial.requests) == ("partial", 1, 1)
    later = NOON + timedelta(seconds=4)
    await world.record(batch([], sequence=2, watermark=later))
    assert await published(world, now) == []
    await world.record(batch([], sequence=1, watermark=later, boot_id="boot-b"))
    (whole,) = await published(world, now)
    assert (whole.state, whole.revision_no, whole.start.second) == ("complete", 2, 0)
    assert whole.latency_ms.counts == (1,)
    assert await published(world, now) == []


async def test_windows_that_stay_partial_keep_no_later_one_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PUBLISH_LIMIT", 2)
    for number in range(3):  # gateways that were killed
        at = NOON - timedelta(seconds=60 - 10 * number)
        await world.record(batch([Call(at=at)], sequence=1, watermark=at, boot_id=f"dead-{number}"))
        await published(world, NOON)
    await world.record(batch([Call()], sequence=1, watermark=NOON + timedelta(seconds=9), boot_id="boot-b"))
    (newest,) = await published(world, NOON + timedelta(seconds=10))
    assert newest.start.second == 0


async def test_a_window_that_a_killed_gateway_left_open_is_partial_for_good(world: World) -> None:
    await world.record(batch([Call(request_id="r1")], sequence=1, watermark=NOON))
    (partial,) = await published(world, NOON + timedelta(seconds=6))
    assert partial.state == "partial"
    later = NOON + timedelta(days=1, minutes=1)
    world.clock.advance(timedelta(days=1, minutes=1).total_seconds())
    await world.record(batch([], sequence=1, watermark=later, boot_id="boot-b"))
    assert await published(world, later) == []


async def test_a_late_label_publishes_the_whole_window_again(world: World) -> None:
    await world.record(batch([Call(request_id="r1")], sequence=1, watermark=NOON + timedelta(seconds=9)))
    now = NOON + timedelta(seconds=10)
    (first,) = await published(world, now)
    assert first.state == "complete"
    await report(world, outcome("r1", False))
    (again,) = await published(world, now)
    assert (again.revision_no, again.state, again.requests) == (2, "complete", 1)
    assert again.quality["legit"].confusion == {"legit": 1}
    assert sum(group.correct for group in again.groups.values()) == 1
    assert sum(group.log_loss for group in again.groups.values()) == pytest.approx(-math.log(0.8))
    assert [group.latency for group in again.groups.values()] == [{4: 1}]


async def test_labels_wait_for_maturity(world: World) -> None:
    schema = world.routes.schema("default", "fraud-prod.1")
    assert schema is not None
    assert schema.outcome is not None
    slow = schema.model_copy(update={"outcome": schema.outcome.model_copy(update={"maturity_s": 60.0})})
    world.routes.remember({("default", "fraud-prod.1"): slow})
    await world.record(batch([Call(request_id="r1")], sequence=1))
    await report(world, outcome("r1", False))
    assert await world.accuracy() == (0, None)
    assert await world.monitor.count_matured(world.clock.now()) == 0
    world.clock.advance(61)
    assert await world.monitor.count_matured(world.clock.now()) == 1
    assert await world.accuracy() == (1, 1.0)
    assert await world.monitor.count_matured(world.clock.now()) == 0


async def test_an_outcome_waits_for_the_first_answer_though_a_repeat_has_matured(world: World) -> None:
    assert FRAUD.outcome is not None
    slow = FRAUD.model_copy(update={"outcome": FRAUD.outcome.model_copy(update={"maturity_s": 3600.0})})
    world.routes.remember({("default", "fraud-prod.1"): slow})
    repeat = Call(request_id="r1", at=NOON + timedelta(seconds=1), revision="fraud-prod.2", arm="candidate")
    await world.record(batch([Call(request_id="r1")], sequence=1), batch([repeat], sequence=2))
    await report(world, outcome("r1", False))
    assert await world.monitor.count_matured(world.clock.now()) == 0  # or the duty would turn for an hour
    world.clock.advance(3600)
    assert await world.monitor.count_matured(world.clock.now()) == 1
    assert await world.accuracy() == (1, 1.0)


async def test_outcomes_that_came_under_an_alias_are_claimed_when_its_route_is_known(world: World) -> None:
    async with world.database.transaction() as tx:
        await world.monitor.record_outcomes(
            tx, [Reported("default", "fraud", "request", "r1", 0, us(NOON), 0, 1, False, {})]
        )
    await world.record(batch([Call(request_id="r1")], sequence=1))
    await world.monitor.route_changed("default", "fraud-prod", ["fraud"], {})
    await world.monitor.count_matured(world.clock.now())
    assert await world.accuracy() == (1, 1.0)


async def test_old_outcomes_become_unmatched_and_old_rows_go(world: World) -> None:
    await world.record(batch([Call(request_id="r1")], sequence=1))
    await report(world, outcome("unknown", True))
    await world.monitor.forget_old(NOON + timedelta(days=8))
    found = await counts(world)
    assert (found["outcomes_unmatched"], found["answered_calls"]) == (1, 1)
    assert await world.database.fetchval("SELECT count(*) FROM predictions") == 0
