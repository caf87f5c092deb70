import asyncio

from phantom_model_server.draining import Gate


class Streams:
    def __init__(self):
        self.told = []

    async def tell(self, record):
        self.told.append(record)


async def settle():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_every_open_stream_is_told_once():
    gate, one, two = Gate(), Streams(), Streams()
    gate.opened(1, one.tell)
    gate.opened(2, two.tell)
    gate.ended(2)
    gate.close(b"record", 5)
    gate.close(b"", 5)
    gate.close(b"other", 5)
    await settle()
    assert (one.told, two.told) == ([b"record"], [])


async def test_a_stream_that_opens_late_is_told_at_once():
    gate, late = Gate(), Streams()
    gate.close(b"record", 5)
    gate.opened(1, late.tell)
    await settle()
    assert late.told == [b"record"]


async def test_a_route_record_after_sigterm_is_passed_on():
    gate, one = Gate(), Streams()
    gate.opened(1, one.tell)
    gate.close(b"", 5)
    await settle()
    gate.close(b"record", 60)
    await settle()
    assert one.told == [b"", b"record"]
    assert gate.timeout_s == 5  # the first one's time runs


async def test_it_is_idle_when_calls_and_streams_have_ended():
    gate, one = Gate(), Streams()
    gate.opened(1, one.tell)
    gate.begin(2)
    gate.close(b"", 5)
    waiting = asyncio.ensure_future(gate.idle())
    gate.end(2)
    await settle()
    assert not waiting.done()
    gate.ended(1)
    assert await asyncio.wait_for(waiting, 5) is True


async def test_it_waits_no_longer_than_it_may():
    gate = Gate()
    gate.begin(1)
    gate.close(b"", 0.05)
    assert await asyncio.wait_for(gate.idle(), 5) is False
    assert gate.in_flight == 1
