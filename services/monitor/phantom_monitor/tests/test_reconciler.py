"""The clock's duties, on a real Postgres."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from phantom_monitor.reconciler import Housekeeper, ReadingClock

from .conftest import NOON, Call, World, batch
from .test_monitor import announced


async def test_what_a_writer_holds_is_looked_at_again_soon(world: World) -> None:
    await world.record(batch([Call()], sequence=1, watermark=NOON + timedelta(seconds=9)))
    world.clock.advance(10)
    housekeeper = Housekeeper(world.monitor, ReadingClock(world.clock), world.clock)
    async with asyncio.timeout(10):
        async with world.database.transaction() as tx:
            await tx.execute("SELECT 1 FROM windows FOR UPDATE")
            duty = asyncio.create_task(housekeeper.publish(interval_s=3600))
            while not (await announced(world))[1]:  # noqa: ASYNC110 - a table has no event
                await asyncio.sleep(0.02)
            windows, closings = await announced(world)
            assert (windows, [c.until for c in closings]) == ([], [NOON - timedelta(seconds=2)])
        while len((await announced(world))[1]) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    duty.cancel()
    windows, closings = await announced(world)
    assert [w.start for w in windows] == [NOON - timedelta(seconds=2)]
    assert [c.until for c in closings] == [NOON - timedelta(seconds=2), NOON + timedelta(seconds=8)]
