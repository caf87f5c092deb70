"""Calls that are refused after their endpoint is known are on record; those refused before are not."""

import asyncio
from dataclasses import replace

import pytest

from phantom_inference_gateway.access import Access
from phantom_inference_gateway.calls import id_text
from phantom_inference_gateway.domain.routing import Decision
from phantom_inference_gateway.tests.fakes import call, route, until
from phantom_inference_gateway.tests.running import KEY, running
from phantom_platform.errors import Exhausted, Forbidden, Invalid, NotFound, Unauthenticated
from phantom_platform.identity.tokens import Identity


class Verifier:
    """Knows two tokens; an unknown one is waited for until `release`."""

    def __init__(self):
        self.asked = 0
        self.release = asyncio.Event()

    async def verify(self, token):
        self.asked += 1
        permissions = {"good": {"predictions:*"}, "weak": {"predictions:infer"}}.get(token)
        if permissions is None:
            await self.release.wait()
            raise Unauthenticated("who is that", code="token_unknown_key")
        return Identity("ada", ("default",), frozenset(permissions), 0)


def with_token(made, token):
    made.token = token
    return made


async def two_revisions(setup, **changes):
    record = route(("f.1", [await setup.server("r1")]), ("f.2", [await setup.server("r2", "f.2")]), **changes)
    stable, rolled_back = record.revisions
    revisions = (stable, rolled_back.model_copy(update={"pinnable": False}))
    await setup.serve(record.model_copy(update={"revisions": revisions}))


def float_unit(**changes):
    """A call whose unit is no text."""

    def parameter(field):
        raise Invalid("a fraction", code="invalid_unit")

    return replace(call("q", **changes), parameter=parameter)


async def test_a_version_that_is_not_served_is_refused_on_record():
    async with running() as setup:
        await two_revisions(setup)
        answer = await setup.gateway.infer(call("q", version="9.9.9", unit="N1"))
        assert (answer.status, answer.reason, answer.body) == (5, "version_not_found", b"")
        assert "these are: 1.0.0, 2.0.0" in answer.message
        (entry,) = setup.log.entries
        assert (entry.endpoint_key, entry.request_id, entry.unit) == (KEY, "q", "N1")
        assert (entry.status, entry.decision, entry.parts) == (5, Decision.PIN, ())
        assert (entry.assigned_revision, entry.served_replica, entry.failed_attempts) == ("f.1", "", ())
        headers = dict(answer.headers())
        assert headers["phantom-prediction-id"] == id_text(entry.prediction_id)
        assert headers["phantom-route-version"] == "1"
        assert setup.metrics.refused == {}
        assert setup.gateway.in_flight == 0


async def test_an_unknown_revision_is_refused_on_record():
    async with running(access=Access(Verifier(), is_required=False)) as setup:
        await two_revisions(setup)
        answer = await setup.gateway.infer(with_token(call(override="f.9"), "good"))
        assert (answer.status, answer.reason) == (5, "revision_not_found")
        (entry,) = setup.log.entries
        assert (entry.status, entry.decision, entry.assigned_revision) == (5, Decision.OVERRIDE, "f.1")
        assert (await setup.gateway.infer(with_token(call(override="f.2"), "good"))).revision == "f.2"


async def test_a_pin_to_a_rolled_back_revision_needs_the_override_permission():
    async with running(access=Access(Verifier(), is_required=False)) as setup:
        await two_revisions(setup)
        for made in (call(version="2.0.0"), with_token(call(version="2.0.0"), "weak")):
            answer = await setup.gateway.infer(made)
            assert (answer.status, answer.reason) == (9, "revision_rolled_back")
            assert "predictions:override" in answer.message
            assert answer.refusal.fields["revision"] == "f.2"
        found = [(each.status, each.decision, each.assigned_revision) for each in setup.log.entries]
        assert found == [(9, Decision.PIN, "f.2")] * 2
        assert (await setup.gateway.infer(call(version="1.0.0"))).revision == "f.1"
        assert (await setup.gateway.infer(with_token(call(version="2.0.0"), "good"))).revision == "f.2"


async def test_a_unit_that_is_no_text_is_refused_on_record():
    async with running() as setup:
        await two_revisions(setup)
        for made, decision in ((float_unit(), Decision.ROLLOUT), (float_unit(version="1.0.0"), Decision.PIN)):
            answer = await setup.gateway.infer(made)
            assert (answer.status, answer.reason) == (3, "invalid_unit")
            entry = setup.log.entries.pop()
            assert (entry.status, entry.decision, entry.assigned_revision) == (3, decision, "f.1")
            assert (entry.unit, entry.request_id) == ("", "q")


async def test_a_client_that_leaves_while_its_pin_is_checked_is_on_record():
    verifier = Verifier()
    async with running(access=Access(verifier, is_required=False)) as setup:
        await two_revisions(setup)
        under_way = asyncio.create_task(setup.gateway.infer(with_token(call(version="2.0.0"), "unknown")))
        await until(lambda: verifier.asked)
        assert setup.gateway.in_flight == 1
        under_way.cancel()
        await asyncio.wait([under_way])
        (entry,) = setup.log.entries
        assert (entry.status, entry.decision, entry.assigned_revision) == (1, Decision.PIN, "f.2")
        assert setup.gateway.in_flight == 0


async def test_what_is_refused_before_its_endpoint_is_known_leaves_no_record():
    async with running(access=Access(Verifier(), is_required=False)) as setup:
        await two_revisions(setup)
        with pytest.raises(NotFound):
            await setup.gateway.infer(call(name="nope"))
        with pytest.raises(Unauthenticated) as refused:
            await setup.gateway.infer(call(override="f.1"))
        assert refused.value.code == "token_missing"
        with pytest.raises(Forbidden):
            await setup.gateway.infer(with_token(call(override="f.1"), "weak"))
        big = call()
        big.body = bytes(setup.gateway._limits.size + 1)
        with pytest.raises(Exhausted):
            await setup.gateway.infer(big)
        assert setup.log.entries == []
        assert setup.metrics.refused["endpoint_not_found"] == 1
        assert sum(setup.metrics.refused.values()) == 4
