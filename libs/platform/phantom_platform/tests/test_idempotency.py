"""Request ids on a real table: done once, answered twice, refused for another request."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from phantom_platform.errors import AlreadyExists
from phantom_platform.idempotency import Once
from phantom_platform.postgres.answers import AnswerReads, AnswerWrites

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Ask:
    workspace: str = "default"
    principal: str = "ann"
    request_id: str = "r1"
    fingerprint: str = "f"


@dataclass(frozen=True)
class Made:
    number: int


class Answers:
    """A store of nothing but answers."""

    def __init__(self, database):
        self._database = database
        self.reads = AnswerReads(database)
        self.made = 0

    @asynccontextmanager
    async def transaction(self):
        async with self._database.transaction() as tx:
            yield AnswerWrites(tx)

    async def make(self, work) -> Made:
        self.made += 1
        await asyncio.sleep(0.02)
        return Made(self.made)


@pytest.fixture
async def answers(world):
    async with world.database.transaction() as tx:
        await tx.execute(
            """CREATE TABLE answers (workspace text, principal text, request_id text, fingerprint text, answer jsonb,
               created_at timestamptz, PRIMARY KEY (workspace, principal, request_id))"""
        )
    return Answers(world.database)


async def test_the_same_request_many_times_at_once_is_done_once(answers):
    once = Once(answers)
    given = await asyncio.gather(*(once.run(Ask(), Made, answers.make) for _ in range(5)))
    assert given == [Made(1)] * 5
    assert await once.recall(Ask(), Made) == Made(1)


async def test_other_people_workspaces_and_requests_without_an_id_are_others(answers):
    once = Once(answers)
    asks = [Ask(), Ask(principal="bob"), Ask(workspace="w"), Ask(request_id=""), Ask(request_id="")]
    assert [await once.run(ask, Made, answers.make) for ask in asks] == [Made(n) for n in range(1, 6)]
    assert await once.recall(Ask(request_id=""), Made) is None


async def test_a_request_id_used_for_something_else_is_refused(answers):
    once = Once(answers)
    await once.run(Ask(), Made, answers.make)
    for again in (
        once.run(Ask(fingerprint="g"), Made, answers.make),
        once.recall(Ask(fingerprint="g"), Made),
    ):
        with pytest.raises(AlreadyExists) as caught:
            await again
        assert caught.value.code == "request_id_reused"
    assert answers.made == 1


async def test_a_failure_leaves_the_request_id_free_and_old_answers_are_forgotten(answers):
    once = Once(answers)

    async def fail(work) -> Made:
        raise AlreadyExists("there")

    with pytest.raises(AlreadyExists):
        await once.run(Ask(), Made, fail)
    assert await once.run(Ask(), Made, answers.make) == Made(1)
    async with answers.transaction() as work:
        await work.forget_answers(work.now + timedelta(seconds=1))
    assert await once.recall(Ask(), Made) is None
