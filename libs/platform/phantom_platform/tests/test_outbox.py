import asyncio

import pytest

from phantom_contracts import topics
from phantom_contracts.events.base import Event
from phantom_platform import cloudevents
from phantom_platform.audit import AuditContext, audit_context
from phantom_platform.errors import Invalid
from phantom_platform.outbox import MAX_EVENT_BYTES
from phantom_platform.outgoing import unpack_headers
from phantom_platform.testing.waiting import until
from phantom_platform.tests.words import Entry, Said

pytestmark = pytest.mark.integration


async def _rows(world):
    return await world.database.fetch("SELECT * FROM outbox ORDER BY id")


async def test_events_commit_with_the_state_they_announce(world):
    async with world.database.transaction() as tx:
        tx.outbox.add(world.log, "default/a", Said(word="hello"), version=3)
        await tx.execute("INSERT INTO effect (event_id, what) VALUES ('1', 'x')")
    (row,) = await _rows(world)
    envelope = cloudevents.decode(unpack_headers(row["headers"]))
    assert (envelope.type, envelope.source) == ("phantom.test.WordSaid.v1", "phantom/test")
    assert envelope.aggregate_version == 3
    assert Said.model_validate_json(row["value"]).word == "hello"
    assert await world.effects() == ["x"]


async def _fail_after_adding(world):
    async with world.database.transaction() as tx:
        tx.outbox.add(world.log, "default/a", Said(word="hello"))
        await tx.execute("INSERT INTO effect (event_id, what) VALUES ('1', 'x')")
        raise LookupError("the use case failed")


async def test_nothing_is_announced_when_the_transaction_fails(world):
    with pytest.raises(LookupError):
        await _fail_after_adding(world)
    assert await _rows(world) == []
    assert await world.effects() == []


async def test_compacted_records_carry_their_version_tombstones_included(world):
    async with world.database.transaction() as tx:
        tx.outbox.add(world.table, "default/a", Entry(version=7))
        tx.outbox.add_tombstone(world.table, "default/a", version=8)
    rows = await _rows(world)
    assert [cloudevents.version_in(unpack_headers(row["headers"])) for row in rows] == [7, 8]
    assert rows[1]["value"] is None


class Unknown(Event):
    type = "phantom.test.Unknown.v1"


@pytest.mark.parametrize(
    ("code", "add"),
    [
        ("event_too_large", lambda box, w: box.add(w.log, "a", Said(word="x" * MAX_EVENT_BYTES))),
        ("event_not_in_topic", lambda box, w: box.add(w.log, "a", Unknown())),
        ("not_the_writer", lambda box, w: box.add(topics.ROUTES, "a", Said(word="x"))),
        ("version_mismatch", lambda box, w: box.add(w.table, "a", Entry(version=1), version=2)),
        ("tombstone_in_log", lambda box, w: box.add_tombstone(w.log, "a", version=2)),
        ("key_missing", lambda box, w: box.add(w.log, "", Said(word="x"))),
    ],
)
async def test_what_must_not_be_announced_is_refused_by_name(world, code, add):
    async with world.database.transaction() as tx:
        with pytest.raises(Invalid) as caught:
            add(tx.outbox, world)
    assert caught.value.code == code
    assert await _rows(world) == []


async def test_ids_follow_the_order_of_the_adds_whatever_the_order_of_locks(world):
    async with world.database.transaction() as tx:
        for number in range(20):
            tx.outbox.add(world.log, f"default/{number % 7}", Said(word=str(number)))
    rows = await _rows(world)
    assert [Said.model_validate_json(row["value"]).word for row in rows] == [str(n) for n in range(20)]


async def test_two_transactions_on_one_key_serialise_and_ids_follow_commits(world):
    """The second one cannot draw its id before the first has committed."""
    first = world.database.transaction()
    tx = await first.__aenter__()
    tx.outbox.add(world.log, "default/a", Said(word="first"))
    await tx.flush(None)
    tx.outbox.pending.clear()

    async def second() -> None:
        async with world.database.transaction() as other:
            other.outbox.add(world.log, "default/a", Said(word="second"))

    waiting = asyncio.create_task(second())
    blocked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await until(lambda: world.database.fetchval(blocked))
    assert not waiting.done()
    await first.__aexit__(None, None, None)
    await asyncio.wait_for(waiting, 10)
    assert [Said.model_validate_json(row["value"]).word for row in await _rows(world)] == ["first", "second"]


async def test_many_keys_in_any_order_never_deadlock(world):
    async def writes(number: int) -> None:
        keys = [f"default/{(number * 7 + step * 3) % 10}" for step in range(6)]
        async with world.database.transaction() as tx:
            for key in keys:
                tx.outbox.add(world.log, key, Said(word=str(number)))

    async with asyncio.timeout(30):
        await asyncio.gather(*(writes(number) for number in range(60)))
    assert len(await _rows(world)) == 360


async def test_a_mutating_call_is_audited_once_in_the_transaction_that_changes(world):
    context = AuditContext(principal="ann", workspace="default", action="/x/Do", resource="default/m")
    token = audit_context.set(context)
    try:
        async with world.database.transaction() as tx:
            await tx.fetchval("SELECT 1")
        assert not context.recorded, "nothing was changed yet"
        async with world.database.transaction() as tx:
            tx.mark_mutation()
        assert context.recorded
        async with world.database.transaction() as tx:
            tx.outbox.add(world.log, "default/a", Said(word="more"))
    finally:
        audit_context.reset(token)
    rows = await _rows(world)
    assert [row["topic"] for row in rows] == [topics.AUDIT.name, world.log.name]
    assert rows[0]["key"] == b"ann"


async def test_a_call_whose_transaction_failed_is_still_to_be_audited(world):
    context = AuditContext(principal="ann", workspace="default", action="/x/Do")
    token = audit_context.set(context)
    try:
        with pytest.raises(LookupError):
            await _fail_after_adding(world)
    finally:
        audit_context.reset(token)
    assert not context.recorded
