"""Up to when windows are announced, on a real Postgres."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from phantom_contracts.events.monitor import WindowPublished, WindowsClosed
from phantom_monitor import service
from phantom_monitor.domain.completeness import Reading

from .conftest import NOON, Call, World, batch, restarted
from .test_monitor import announced, outcome, report

START = NOON - timedelta(seconds=2)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


async def look(
    world: World, seconds: float, *, reading_since: float = -100
) -> tuple[list[WindowPublished], list[WindowsClosed]]:
    """What one look announces, that many seconds after 12:00:00."""
    async with world.database.transaction() as tx:
        await tx.execute("DELETE FROM outbox")
    now = at(seconds)
    reading = Reading(since_s=at(reading_since).timestamp(), last_s=now.timestamp())
    await world.monitor.publish_windows(reading, now)
    return await announced(world)


async def closed(world: World, seconds: float, **more: float) -> list[tuple[float, int]]:
    """(until in seconds after 12:00:00, gateways) of what is said."""
    _, closings = await look(world, seconds, **more)
    return [((c.until - START).total_seconds(), c.gateways) for c in closings]


async def beat(world: World, boot_id: str, seconds: float, *calls: Call) -> None:
    """A batch of a gateway that promises everything before a time; it is read at once."""
    world.clock.advance(max(0.0, (at(seconds) - world.clock.now()).total_seconds()))
    beats[boot_id] = beats.get(boot_id, 0) + 1
    await world.record(batch(calls, sequence=beats[boot_id], boot_id=boot_id, watermark=at(seconds)))


beats: dict[str, int] = {}


async def test_an_endpoint_without_traffic_is_closed_every_5_s(world: World) -> None:
    said: list[tuple[int, float]] = []
    for seconds in range(1, 41):
        await beat(world, "a", seconds)
        said += [(seconds, until) for until, _ in await closed(world, seconds + 0.5)]
    assert dict(said) | {s: s for s in range(5, 41, 5)} == dict(said)
    assert all(until == seconds // 5 * 5 for seconds, until in said)
    assert all(b - a <= 5 for (a, _), (b, _) in pairwise(said))


async def test_windows_come_before_what_vouches_for_them(world: World) -> None:
    await beat(world, "a", 6, Call(at=at(2)), Call(at=at(6)))
    windows, closings = await look(world, 6.5)
    rows = await world.database.fetch("SELECT value FROM outbox ORDER BY id")
    assert [b'"until"' in row["value"] for row in rows] == [False, True]
    assert [(w.start, w.state) for w in windows] == [(START, "complete")]
    assert [c.until for c in closings] == [at(5)]
    keys = await world.database.fetch("SELECT DISTINCT key FROM outbox")
    assert [row["key"] for row in keys] == [b"default/fraud-prod"]


async def test_without_a_gateway_nothing_is_closed(world: World) -> None:
    assert await closed(world, 10) == []
    await beat(world, "a", 6)
    async with world.database.transaction() as tx:
        await world.monitor.gateway_left(tx, "a", at(7))
    assert await closed(world, 7) == []


async def test_a_killed_gateway_holds_it_up_for_15_s_and_its_windows_stay_partial(world: World) -> None:
    async with world.database.transaction() as tx:
        await world.monitor.gateway_joined(tx, "a", at(0))
        await world.monitor.gateway_joined(tx, "b", at(0))
    await beat(world, "b", 8, Call(at=at(6)))
    await beat(world, "a", 9)
    assert await closed(world, 9.5) == [(5, 2)]
    await beat(world, "a", 14)
    windows, closings = await look(world, 14.5)
    assert [w.state for w in windows] == ["partial"]
    # It is said again, by who is still heard and has passed it.
    assert [(c.until, c.gateways) for c in closings] == [(at(5), 2)]
    await beat(world, "a", 23.5)
    assert await closed(world, 23.6) == [(20, 1)]
    assert await world.database.fetchval("SELECT count(*) FROM windows WHERE NOT is_complete") == 1


async def test_a_gateway_that_leaves_holds_nothing_up(world: World) -> None:
    await beat(world, "b", 3)
    await beat(world, "a", 11)
    assert await closed(world, 11.5) == [(0, 2)]
    async with world.database.transaction() as tx:
        await world.monitor.gateway_left(tx, "b", at(12))
    assert await closed(world, 12) == [(10, 1)]


async def test_a_gateway_that_joins_never_turns_it_back(world: World) -> None:
    await beat(world, "a", 11)
    assert await closed(world, 11.5) == [(10, 1)]
    async with world.database.transaction() as tx:
        await world.monitor.gateway_joined(tx, "b", at(12))
    await beat(world, "a", 16)
    assert await closed(world, 16.5) == [(10, 1)]
    await beat(world, "b", 17)
    assert await closed(world, 17.5) == [(15, 2)]


async def test_a_restarted_monitor_goes_on_where_it_was(world: World) -> None:
    await beat(world, "a", 11)
    assert await closed(world, 11.5) == [(10, 1)]
    again = restarted(world)
    assert await closed(again, 12, reading_since=12) == []
    # An old spill of a gateway that died: what it adds is announced, what was said stands.
    await beat(again, "old", 3, Call(at=at(2)))
    await beat(again, "a", 16)
    windows, closings = await look(again, 16.5, reading_since=12)
    assert [w.start for w in windows] == [START]
    assert [c.until for c in closings] == [at(10)]
    await beat(again, "a", 31)
    assert await closed(again, 31.5, reading_since=12) == [(30, 1)]


async def test_nothing_is_vouched_for_that_is_beyond_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PUBLISH_LIMIT", 1)
    await beat(world, "a", 16, Call(at=at(2)), Call(at=at(7)), Call(at=at(12)))
    found = [await look(world, 16.5) for _ in range(3)]
    assert [[w.start for w in windows] for windows, _ in found] == [[at(10)], [at(5)], [at(0)]]
    # The newest are announced first: only up to the oldest that waits is everything announced.
    assert [[c.until for c in closings] for _, closings in found] == [[at(0)], [], [at(15)]]


async def test_nothing_is_vouched_for_that_is_just_being_written(world: World) -> None:
    await beat(world, "a", 11, Call(at=at(7), request_id="r1"))
    async with world.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM windows FOR UPDATE")
        assert await closed(world, 11.5) == [(5, 1)]
    assert await closed(world, 11.6) == [(10, 1)]
    # Also not what changed since it was said.
    await report(world, outcome("r1", False))
    async with world.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM windows FOR UPDATE")
        await beat(world, "a", 16)
        assert await closed(world, 16.5) == []
    windows, closings = await look(world, 16.6)
    assert [w.revision_no for w in windows] == [2]
    assert [c.until for c in closings] == [at(15)]
