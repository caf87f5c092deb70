from types import SimpleNamespace

import pytest

from phantom.platform.v1 import dead_letter_service_pb2 as pb
from phantom_platform.clock import SystemClock
from phantom_platform.deadletters import DeadLetters
from phantom_platform.deadletters_rpc import SERVICE_NAME, DeadLetterRpc, dead_letter_servicer
from phantom_platform.errors import Invalid, NotFound
from phantom_platform.kafka.burial import bury
from phantom_platform.kafka.router import RawRecord, Router
from phantom_platform.tests.words import Said

pytestmark = pytest.mark.integration

CONTEXT = SimpleNamespace()


async def keep(tx, received):
    await tx.execute("INSERT INTO effect VALUES ($1, $2)", received.id, received.event.word)


def routed(world) -> Router:
    router = Router("test")
    router.on(world.log, Said, keep)
    return router


async def bury_some(world, router, count: int) -> None:
    for offset in range(count):
        raw = RawRecord(
            world.log.name, 0, offset, 1, b"default/a", b"\xff", [("ce_type", b"t"), ("x", b"\xff")]
        )
        async with world.database.transaction() as tx:
            assert await bury(tx, router, raw, Invalid("broken", code="undecodable"))


def door(world, router) -> DeadLetterRpc:
    return DeadLetterRpc([DeadLetters(router, world.database, SystemClock())])


async def test_a_list_comes_newest_first_in_pages_without_bytes(world):
    router = routed(world)
    await bury_some(world, router, 5)
    rpc = door(world, router)
    seen, token = [], ""
    for _ in range(3):
        page = await rpc.ListDeadLetters(
            pb.ListDeadLettersRequest(service="test", page_size=2, page_token=token), CONTEXT
        )
        seen += page.dead_letters
        token = page.next_page_token
    assert token == ""
    assert [each.offset for each in seen] == [4, 3, 2, 1, 0]
    assert {(each.state, each.reason, each.event_type) for each in seen} == {
        ("dead", "undecodable: broken", "t")
    }
    assert all(each.value == b"" for each in seen)


async def test_one_comes_with_its_bytes_and_headers(world):
    router = routed(world)
    await bury_some(world, router, 1)
    rpc = door(world, router)
    (listed,) = (await rpc.ListDeadLetters(pb.ListDeadLettersRequest(service="test"), CONTEXT)).dead_letters
    answer = await rpc.GetDeadLetter(pb.GetDeadLetterRequest(service="test", id=listed.id), CONTEXT)
    assert answer.dead_letter.value == b"\xff"
    assert dict(answer.dead_letter.headers) == {"ce_type": "t", "x": "�"}
    assert answer.dead_letter.died_at.ToDatetime().year > 2020


async def test_a_replay_that_fails_again_says_why(world):
    router = routed(world)
    await bury_some(world, router, 1)
    rpc = door(world, router)
    (listed,) = (await rpc.ListDeadLetters(pb.ListDeadLettersRequest(service="test"), CONTEXT)).dead_letters
    with pytest.raises(Invalid, match=r"ce_type|ce_id"):
        await rpc.ReplayDeadLetter(pb.ReplayDeadLetterRequest(service="test", id=listed.id), CONTEXT)


async def test_an_unknown_service_is_refused_by_name(world):
    with pytest.raises(NotFound, match="known: test") as caught:
        await door(world, routed(world)).ListDeadLetters(pb.ListDeadLettersRequest(service="x"), CONTEXT)
    assert caught.value.code == "service_not_found"


async def test_the_same_service_twice_is_refused_and_the_servicer_is_audited(world):
    letters = DeadLetters(routed(world), world.database, SystemClock())
    with pytest.raises(ValueError, match="twice"):
        DeadLetterRpc([letters, letters])
    servicer = dead_letter_servicer([letters])
    assert servicer.full_service_name == SERVICE_NAME
    assert servicer.audit is not None
