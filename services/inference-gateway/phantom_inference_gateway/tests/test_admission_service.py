"""Overload as the use case and the doors meet it: who is refused, with which words, and what is counted."""

import asyncio
from dataclasses import replace

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from inference import grpc_service_pb2 as oip
from phantom_inference_gateway.admitting import Overloaded
from phantom_inference_gateway.domain.admission import AdmissionRule, Gate
from phantom_inference_gateway.http_server import response_of
from phantom_inference_gateway.tests.fakes import Outcome, call, route, until
from phantom_inference_gateway.tests.running import KEY, RULE, running
from phantom_inference_gateway.tests.test_rpc import door
from phantom_platform.errors import Exhausted

HURRIED = replace(RULE, admission=AdmissionRule(max_wait_s=0.05, floor=4))


class Full(Gate):
    """Lets nobody in."""

    def __init__(self):
        super().__init__(AdmissionRule())

    def admit(self, outstanding, now, deadline):
        return False


def targets(routes, revision="f.1"):
    return routes.find("default", "flights-prod").targets[revision]


async def stalled(setup, server, revision="f.1"):
    """As many calls as always get in, unanswered for longer than a call may wait."""
    await setup.gateway.infer(call(unit="N1"))
    server.answers.clear()
    held = [asyncio.ensure_future(setup.gateway.infer(call(unit="N1"))) for _ in range(4)]
    (target,) = targets(setup.routes, revision)
    loop = asyncio.get_running_loop()
    await until(lambda: target.outstanding == 4 and target.gate.wait_s(4, loop.time()) > 0.1)
    return held


async def test_a_call_that_would_wait_too_long_is_refused_at_once_and_leaves_no_record():
    async with running(HURRIED) as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        held = await stalled(setup, one)
        records, requests = len(setup.log.entries), setup.gateway.budget._requests
        started = asyncio.get_running_loop().time()
        with pytest.raises(Overloaded) as refused:
            await setup.gateway.infer(call())
        assert asyncio.get_running_loop().time() - started < 0.05
        assert refused.value.code == "overloaded"
        assert refused.value.fields["outstanding"] == 4
        assert float(refused.value.fields["expected_wait_s"]) > 0.1
        assert refused.value.fields["retry_after_s"] == 1.0
        assert "f.1 has too much to do: 4 calls are outstanding" in refused.value.message
        assert len(setup.log.entries) == records
        assert setup.gateway.budget._requests == requests
        assert setup.gateway.in_flight == 4
        assert setup.metrics.shed == setup.metrics.refused["overloaded"] == 1
        assert setup.metrics.overloads == {(KEY, "f.1", "wait"): 1}
        one.answers.set()
        assert [answer.status for answer in await asyncio.gather(*held)] == [0] * 4
        assert (await setup.gateway.infer(call())).status == 0


async def test_a_candidates_overload_is_not_moved_onto_the_stable_revision():
    async with running(HURRIED) as setup:
        stable, candidate = await setup.server("s1"), await setup.server("c1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [candidate]), candidate="f.2", share=10_000))
        held = await stalled(setup, candidate, "f.2")
        with pytest.raises(Overloaded):
            await setup.gateway.infer(call(unit="N1"))
        assert stable.requests == []
        assert (await setup.gateway.infer(call(version="1.0.0"))).revision == "f.1"
        assert setup.metrics.overloads == {(KEY, "f.2", "wait"): 1}
        candidate.answers.set()
        await asyncio.gather(*held)


async def test_a_pinned_call_is_refused_as_any_other():
    async with running() as setup:
        await setup.serve(route(("f.1", [await setup.server("r1")])))
        targets(setup.routes)[0].gate = Full()
        with pytest.raises(Overloaded):
            await setup.gateway.infer(call(version="1.0.0"))


async def test_a_call_goes_to_the_replica_that_has_room():
    async with running() as setup:
        busy, free = await setup.server("r1"), await setup.server("r2")
        await setup.serve(route(("f.1", [busy, free])))
        targets(setup.routes)[0].gate = Full()
        answers = [await setup.gateway.infer(call()) for _ in range(20)]
        assert {answer.status for answer in answers} == {0}
        assert busy.requests == []
        targets(setup.routes)[1].gate = Full()
        with pytest.raises(Overloaded):
            await setup.gateway.infer(call())


async def test_a_call_that_was_let_in_is_tried_again_whatever_waits_there():
    async def fails(request, server):
        return Outcome(14, "broken", "as told")

    async with running() as setup:
        bad, good = await setup.server("r1", behave=fails), await setup.server("r2")
        await setup.serve(route(("f.1", [bad, good])))
        first, second = targets(setup.routes)
        second.outstanding = 1  # so that the other one is chosen
        second.gate = Full()
        answer = await setup.gateway.infer(call())
        assert answer.status == 0
        assert setup.log.entries[0].served_replica == "r2"
        assert first.outstanding == 0


async def test_a_call_whose_deadline_is_too_near_is_refused_and_another_is_not():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        held = await stalled(setup, one)
        with pytest.raises(Overloaded) as refused:
            await setup.gateway.infer(call(timeout_s=0.05))
        assert "its deadline allows" in refused.value.message
        assert setup.metrics.overloads == {(KEY, "f.1", "deadline"): 1}
        patient = asyncio.ensure_future(setup.gateway.infer(call(timeout_s=5)))
        await until(lambda: targets(setup.routes)[0].outstanding == 5)
        one.answers.set()
        assert {answer.status for answer in await asyncio.gather(patient, *held)} == {0}


async def test_without_a_bound_everything_is_queued():
    async with running(replace(RULE, admission=AdmissionRule(max_wait_s=0))) as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        held = await stalled(setup, one)
        more = [asyncio.ensure_future(setup.gateway.infer(call())) for _ in range(3000)]
        await until(lambda: setup.gateway.in_flight == 3004)
        one.answers.set()
        assert {answer.status for answer in await asyncio.gather(*held, *more)} == {0}


async def test_more_than_a_model_can_do_is_refused_and_the_rest_is_answered_in_time():
    """200 calls a second, 600 offered."""
    turn = asyncio.Lock()

    async def slow(request, server):
        async with turn:
            await asyncio.sleep(0.005)
        return Outcome()

    async with running(replace(RULE, admission=AdmissionRule(max_wait_s=0.3))) as setup:
        await setup.serve(route(("f.1", [await setup.server("r1", behave=slow)])))
        loop, waits, ends = asyncio.get_running_loop(), [], []

        async def one():
            started = loop.time()
            try:
                await setup.gateway.infer(call())
                waits.append((started, loop.time() - started))
            except Overloaded:
                ends.append(loop.time() - started)

        begun, calls = loop.time(), []
        for n in range(1800):
            await asyncio.sleep(max(0.0, begun + n / 600 - loop.time()))
            calls.append(asyncio.ensure_future(one()))
        await asyncio.gather(*calls)
        later = sorted(took for started, took in waits if started > begun + 1)
        assert later[int(len(later) * 0.95)] < 0.9
        assert sum(waited < 0.05 for waited in ends) > 0.9 * len(ends) > 600
        assert len(later) > 100


async def test_a_refusal_over_grpc_says_when_to_try_again():
    async with door() as made:
        targets(made.routes)[0].gate = Full()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await made.stub.ModelInfer(oip.ModelInferRequest(model_name="flights"))
        error = raised.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        trailing = dict(error.trailing_metadata())
        assert int(trailing["retry-after"]) >= 1
        status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        retry = error_details_pb2.RetryInfo()
        assert any(each.Unpack(retry) for each in status.details)
        assert retry.retry_delay.seconds >= 1


async def test_a_refused_message_of_a_stream_ends_nothing_but_itself():
    async with door() as made:
        open_gate = targets(made.routes)[0].gate
        stream = made.stub.ModelStreamInfer(timeout=10)
        for gate, is_answered in ((open_gate, True), (Full(), False), (open_gate, True)):
            targets(made.routes)[0].gate = gate
            await stream.write(oip.ModelInferRequest(model_name="flights", id="q"))
            answer = await stream.read()
            assert (answer.error_message == "") is is_answered
            if not is_answered:
                assert answer.infer_response.parameters["phantom_reason"].string_param == "overloaded"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_the_metrics_tell_the_wait_and_the_refusals_of_each_revision():
    async with running(HURRIED) as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        assert setup.pool.waits() == {(KEY, "f.1"): 0.0}
        held = await stalled(setup, one)
        assert setup.pool.waits()[KEY, "f.1"] > 0.1
        with pytest.raises(Overloaded):
            await setup.gateway.infer(call())
        setup.metrics.waits = setup.pool.waits
        found = {each.name: each.samples for each in setup.metrics.collect()}
        (sample,) = [each for each in found["phantom_gateway_overloaded"] if each.name.endswith("_total")]
        assert (sample.labels["revision"], sample.labels["bound"], sample.value) == ("f.1", "wait", 1)
        assert found["phantom_gateway_expected_wait_seconds"][0].value > 0.1
        one.answers.set()
        await asyncio.gather(*held)


def test_a_refusal_over_http_says_when_to_try_again():
    found = response_of(Overloaded("too much", retry_after_s=1.2))
    assert (found.status, found.headers["Retry-After"]) == (429, "2")
    assert "Retry-After" not in response_of(Exhausted("too large", code="request_too_large")).headers
