"""Handing batches to producers, without Kafka; with one: test_prediction_log."""

from __future__ import annotations

import asyncio
from pathlib import Path

from phantom_inference_gateway.batches import Batch
from phantom_inference_gateway.deliveries import Connection, Lane
from phantom_inference_gateway.spill import Spill


class Settled:
    """The log, as far as a lane knows it."""

    def __init__(self) -> None:
        self.sequences: list[int] = []

    def watermark(self, key: str) -> Batch:
        raise AssertionError("nothing is due")

    def on_settled(self, batch: Batch, *, dropped: bool) -> None:
        self.sequences.append(batch.sequence)


class Producer:
    """Acknowledges at once, unless it is one that is ended while it takes a batch."""

    def __init__(self, *, ends: bool) -> None:
        self.has_ended = False
        self._ends = ends
        self.was_asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def send(self, *args: object, **more: object) -> asyncio.Future[None]:
        self.was_asked.set()
        if self._ends:
            await self.may_answer.wait()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._ends:
            future.set_result(None)
        return future


async def test_a_batch_that_an_ended_producer_took_is_handed_to_the_next(tmp_path: Path) -> None:
    spill, settled = Spill(tmp_path, 1, 1 << 20), Settled()
    await spill.open()
    connection = Connection("127.0.0.1:1", "test", 1.0)
    lane = Lane(0, spill, settled, connection)
    ending, next_one = Producer(ends=True), Producer(ends=False)
    connection.producer = ending  # type: ignore[assignment]
    lane.offer(Batch(0, "default/delays", "boot", 1, b"value", 3, 1234))
    await lane.task.start()
    async with asyncio.timeout(5):
        await ending.was_asked.wait()
        ending.has_ended = True
        lane.take_back(ending)  # type: ignore[arg-type]
        ending.may_answer.set()
        connection.producer = next_one  # type: ignore[assignment]
        lane.wake()
        await next_one.was_asked.wait()
        while not lane.is_idle:
            lane.is_changed.clear()
            await lane.is_changed.wait()
    await lane.task.stop()
    spill.close()
    assert settled.sequences == [1]
