"""Copies for a shadow revision, over real frame streams and plain OIP: logged, and of no consequence to callers."""

import asyncio
import random

import aiohttp
import grpc
import pytest

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_grpc
from phantom.predictions.v1 import prediction_batch_pb2 as predictions
from phantom_contracts import topics
from phantom_contracts.events.deployer import Replica, ShadowRoute
from phantom_contracts.events.experiment import ExperimentsRecord, Gate, RunningExperiment
from phantom_inference_gateway.calls import id_text
from phantom_inference_gateway.domain.frames import FrameLimits
from phantom_inference_gateway.domain.routing import Decision
from phantom_inference_gateway.journey import ShadowLimits
from phantom_inference_gateway.service import Limits
from phantom_inference_gateway.tests import fakes
from phantom_inference_gateway.tests.fakes import FakeModelServer, Outcome, call, until
from phantom_inference_gateway.tests.kafka_sides import deployer, records
from phantom_inference_gateway.tests.running import KEY, running
from phantom_inference_gateway.tests.test_app import gateway as process
from phantom_inference_gateway.tests.test_oip_peers import Peer
from phantom_inference_gateway.upstreams import StreamRule
from phantom_statistics import assignment

EVERYTHING = 10_000


def route(*revisions, bp=EVERYTHING, **changes):
    """The first revision is the stable one, the last the shadow."""
    shadow = ShadowRoute(revision=revisions[-1][0], salt="shadow-salt", bp=bp)
    return fakes.route(*revisions, shadow=shadow, **changes)


def copies(setup):
    return [entry for entry in setup.log.entries if entry.decision == Decision.SHADOW]


def answers(setup):
    return [entry for entry in setup.log.entries if entry.decision != Decision.SHADOW]


def answering(code):
    async def behave(request, server):
        return Outcome(code, "as_told")

    return behave


async def test_a_copy_is_answered_by_the_shadow_and_logged_as_such():
    async with running() as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow])))
        answer = await setup.gateway.infer(call("q", unit="N1"))
        assert (answer.status, answer.revision, answer.variant) == (0, "f.1", "control")
        await until(lambda: copies(setup))
        (copy,), (logged,) = copies(setup), answers(setup)
        assert (copy.assigned_revision, copy.served_revision, copy.served_replica) == ("f.2", "f.2", "x1")
        assert (copy.arm, copy.decision, copy.status, copy.route_version) == ("shadow", Decision.SHADOW, 0, 1)
        assert (copy.prediction_id, copy.unit, copy.request_id) == (logged.prediction_id, "N1", "q")
        assert copy.received_us == logged.received_us
        assert [part[1:] for part in copy.parts] == [(0, 1, 0)]
        assert stable.requests == shadow.requests
        # It is no call, no retry and nobody's answer.
        assert setup.metrics.retries == setup.gateway.budget.taken == 0
        assert [labels[2] for labels in setup.metrics._series] == ["control"]
        assert (setup.gateway.shadows.answered, setup.gateway.shadows.in_flight) == (1, 0)


async def test_the_share_is_of_units_and_of_calls_where_there_is_none():
    async with running() as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow]), bp=3000))
        for number in range(150):
            await setup.gateway.infer(call(f"q{number}", unit=f"N{number % 60}" if number % 2 else None))
        await until(lambda: setup.gateway.shadows.in_flight == 0)
        expected = [
            each.prediction_id
            for each in answers(setup)
            if assignment.bucket("shadow-salt", each.unit or id_text(each.prediction_id)) < 3000
        ]
        assert sorted(each.prediction_id for each in copies(setup)) == sorted(expected)
        assert 15 < len(expected) < 80


async def test_only_calls_that_the_rollout_gives_to_the_stable_revision_are_copied():
    async with running() as setup:
        stable, other = await setup.server("s1"), await setup.server("c1", "f.2")
        shadow = await setup.server("x1", "f.3")
        revisions = ("f.1", [stable]), ("f.2", [other]), ("f.3", [shadow])
        await setup.serve(route(*revisions, candidate="f.2", share=EVERYTHING))
        await setup.gateway.infer(call(unit="N1"))
        await setup.serve(route(*revisions, version=2))
        await setup.gateway.infer(call(version="1.0.0"))
        running_one = RunningExperiment(
            id="e", version=1, gate=Gate(salt="g", start=0, end=EVERYTHING), salt="e", hash_field="tail_number",
            arms={"control": "f.1"}, allocations=(),
        )  # fmt: skip
        setup.routes.experiments_changed(
            KEY, ExperimentsRecord(version=1, endpoint="flights-prod", experiments=(running_one,)), 1
        )
        await setup.routes.settled()
        await setup.gateway.infer(call(unit="N1"))
        assert [entry.decision for entry in answers(setup)] == [
            Decision.ROLLOUT,
            Decision.PIN,
            Decision.EXPERIMENT,
        ]
        setup.routes.experiments_deleted(KEY, 2)
        await setup.routes.settled()
        await setup.gateway.infer(call("last", unit="N1"))
        await until(lambda: copies(setup))
        assert [entry.request_id for entry in copies(setup)] == ["last"]
        assert len(shadow.requests) == 1


@pytest.mark.parametrize("code", [3, 13, 14])
async def test_what_a_shadow_fails_at_is_on_record_and_tried_once(code):
    async with running() as setup:
        stable = await setup.server("s1")
        shadows = [await setup.server(f"x{n}", "f.2", answering(code)) for n in (1, 2)]
        await setup.serve(route(("f.1", [stable]), ("f.2", shadows)))
        answer = await setup.gateway.infer(call("q"))
        await until(lambda: copies(setup))
        (copy,) = copies(setup)
        assert (answer.status, copy.status, copy.parts, copy.failed_attempts) == (0, code, (), ())
        assert sum(len(each.requests) for each in shadows) == 1
        assert setup.metrics.retries == setup.gateway.budget.taken == 0


async def test_a_failing_shadow_is_ejected_and_the_stable_revision_is_not():
    async with running() as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2", answering(14))
        well = await setup.server("x2", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow, well])))
        for _ in range(40):
            assert (await setup.gateway.infer(call())).status == 0
            await until(lambda: setup.gateway.shadows.in_flight == 0)
            if setup.pool.ejections:
                break
        assert setup.pool.ejections == 1
        assert len(shadow.requests) == 3
        assert setup.pool.unusable() == [f"{KEY}: replica x1 is ejected"]


async def test_a_shadow_that_hangs_costs_callers_nothing_and_copies_are_bounded():
    limits = Limits(shadows=ShadowLimits(copies=20))
    async with running(limits=limits) as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow])))
        shadow.answers.clear()
        started = asyncio.get_running_loop().time()
        found = [await setup.gateway.infer(call(f"q{n}", timeout_s=1.0)) for n in range(100)]
        assert {each.status for each in found} == {0}
        assert asyncio.get_running_loop().time() - started < 0.8
        assert setup.gateway.shadows.in_flight == 20
        assert setup.gateway.shadows.dropped == 80
        # Past its deadline a copy ends, and the silent replica is left out.
        await until(lambda: setup.gateway.shadows.in_flight == 0)
        assert {entry.status for entry in copies(setup)} == {4}
        await until(lambda: setup.pool.ejections == 1)


async def test_request_bytes_of_copies_are_bounded():
    limits = Limits(shadows=ShadowLimits(size=100_000))
    async with running(limits=limits) as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow])))
        shadow.answers.clear()
        for n in range(5):
            each = call(f"q{n}")
            each.body += b"\x3a" + b"\xb0\xea\x01" + b"\0" * 30_000
            assert (await setup.gateway.infer(each)).status == 0
        assert (setup.gateway.shadows.in_flight, setup.gateway.shadows.dropped) == (3, 2)


async def test_a_shadow_whose_queue_is_too_long_gets_no_more_copies():
    async def slowly(request, server):
        await asyncio.sleep(0.02)
        return Outcome()

    rule = StreamRule(frames=FrameLimits(calls=1, in_flight=1))
    async with running(rule, Limits(shadows=ShadowLimits(copies=1000))) as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2", slowly)
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow])))
        for n in range(400):
            assert (await setup.gateway.infer(call(f"q{n}", timeout_s=0.5))).status == 0
            await asyncio.sleep(0.002)
        assert setup.gateway.shadows.dropped > 0
        assert setup.gateway.shadows.in_flight < 100


async def test_a_shadow_that_is_away_is_no_failure_of_anybody():
    async with running() as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow])))
        shadow.answers.clear()
        answer = await setup.gateway.infer(call("lost"))
        await shadow.got(1)
        await shadow.kill()
        await until(lambda: copies(setup))
        assert (answer.status, [entry.status for entry in copies(setup)]) == (0, [14])
        for _ in range(10):
            assert (await setup.gateway.infer(call())).status == 0
        await until(lambda: setup.gateway.shadows.in_flight == 0)
        assert (len(copies(setup)), setup.gateway.shadows.dropped) == (1, 10)


async def test_a_version_is_drained_only_when_its_copies_have_ended():
    async with running() as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow])))
        shadow.answers.clear()
        await setup.gateway.infer(call())
        await shadow.got(1)
        await setup.serve(fakes.route(("f.1", [stable]), version=2))
        progress = setup.routes.progress()[KEY]
        assert (progress.applied, progress.drained) == (2, 1)
        shadow.answers.set()
        await until(lambda: setup.routes.progress()[KEY].drained == 2)
        assert [(entry.status, entry.route_version) for entry in copies(setup)] == [(0, 1)]
        await until(lambda: shadow.open_streams == 0)


async def test_a_call_that_is_retried_or_cancelled_is_copied_once():
    async with running() as setup:
        bad, well = await setup.server("s1", behave=answering(14)), await setup.server("s2")
        shadow = await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [bad, well]), ("f.2", [shadow])))
        for n in range(10):
            assert (await setup.gateway.infer(call(f"q{n}"))).status == 0
        assert setup.metrics.retries > 0
        well.answers.clear()
        bad.answers.clear()
        gone = asyncio.create_task(setup.gateway.infer(call("gone")))
        await shadow.got(11)
        gone.cancel()
        await asyncio.wait([gone])
        await until(lambda: len(copies(setup)) == 11)
        assert {entry.status for entry in copies(setup)} == {0}


async def test_the_last_copies_end_before_the_process_does():
    async with running() as setup:
        stable, shadow = await setup.server("s1"), await setup.server("x1", "f.2")
        await setup.serve(route(("f.1", [stable]), ("f.2", [shadow])))
        shadow.answers.clear()
        await setup.gateway.infer(call())
        await shadow.got(1)
        asyncio.get_running_loop().call_later(0.1, shadow.answers.set)
        await setup.gateway.shadows.stop()
        assert [entry.status for entry in copies(setup)] == [0]


async def test_a_shadow_outside_the_route_or_with_a_bad_share_is_not_used():
    async with running() as setup:
        stable = await setup.server("s1")
        record = fakes.route(("f.1", [stable]), shadow=ShadowRoute(revision="f.9", salt="s", bp=EVERYTHING))
        await setup.serve(record)
        await setup.gateway.infer(call())
        assert (setup.gateway.shadows.dropped, copies(setup)) == (0, [])
        for shadow in (
            ShadowRoute(revision="f.1", salt="a:b", bp=1),
            ShadowRoute(revision="f.1", salt="s", bp=10_001),
        ):
            bad = fakes.route(("f.1", [stable]), version=2, shadow=shadow)
            with pytest.raises(ValueError, match=r"salt|share"):
                setup.routes.route_changed(KEY, bad, 2)


async def test_a_plain_oip_server_may_be_the_shadow():
    peer, server = Peer(), grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with running() as setup:
            record = route(("f.1", [await setup.server("s1")]), ("f.2", []))
            replica = Replica(id="t1", address=f"127.0.0.1:{port}", protocol="oip")
            shadow = record.revisions[1].model_copy(update={"replicas": (replica,)})
            await setup.serve(record.model_copy(update={"revisions": (record.revisions[0], shadow)}))
            for _ in range(3):
                assert (await setup.gateway.infer(call())).revision == "f.1"
            await until(lambda: len(copies(setup)) == 3)
            peer.code = grpc.StatusCode.INTERNAL
            await setup.gateway.infer(call())
            await until(lambda: len(copies(setup)) == 4)
            assert sorted((entry.status, entry.served_replica) for entry in copies(setup)) == [
                (0, "t1"),
                (0, "t1"),
                (0, "t1"),
                (13, ""),
            ]
            assert setup.gateway.shadows.in_flight == 0
    finally:
        await server.stop(None)


@pytest.mark.integration
async def test_calls_of_every_door_are_copied_and_the_log_says_which_is_which(kafka_bootstrap, tmp_path):
    endpoint = f"f-{random.randrange(10**9)}"
    stable, shadow = await FakeModelServer("s1", "f.1").start(), await FakeModelServer("x1", "f.2").start()
    try:
        async with deployer(kafka_bootstrap) as publish, process(kafka_bootstrap, tmp_path) as app:
            await publish(route(("f.1", [stable]), ("f.2", [shadow]), endpoint=endpoint, aliases=()))
            await until(lambda: f"default/{endpoint}" in app.routes.progress())
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc.port}") as channel:
                stub = oip_grpc.GRPCInferenceServiceStub(channel)
                await stub.ModelInfer(oip.ModelInferRequest(model_name=endpoint, id="unary"))
                stream = stub.ModelStreamInfer()
                await stream.write(oip.ModelInferRequest(model_name=endpoint, id="stream"))
                await stream.done_writing()
                assert [each.infer_response.id async for each in stream] == ["stream"]
            tensor = {"name": "a", "datatype": "FP64", "shape": [1], "data": [1.5]}
            url = f"http://127.0.0.1:{app.rest.port}/v2/models/{endpoint}/infer"
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, json={"id": "rest", "inputs": [tensor]}) as answer,
            ):
                assert (answer.status, answer.headers["phantom-revision"]) == (200, "f.1")
            await until(lambda: app.gateway.shadows.answered == 3)

        def logged(found):
            ours = [each.value for each in found if each.key.decode().endswith(endpoint)]
            batches = map(predictions.PredictionBatch.FromString, ours)
            return [
                (
                    batch.request_ids[i],
                    batch.kinds[i],
                    batch.decisions[i],
                    batch.prediction_ids[16 * i :][:16],
                )
                for batch in batches
                if batch.endpoint == endpoint
                for i in range(len(batch.kinds))
            ]

        found = logged(
            await records(kafka_bootstrap, topics.PREDICTIONS, lambda found: len(logged(found)) == 6)
        )
        for request_id in ("unary", "stream", "rest"):
            of = {kind: (decision, id) for name, kind, decision, id in found if name == request_id}
            assert of[predictions.KIND_ANSWER][0] == predictions.DECISION_ROLLOUT
            assert of[predictions.KIND_SHADOW][0] == predictions.DECISION_SHADOW
            assert of[predictions.KIND_ANSWER][1] == of[predictions.KIND_SHADOW][1]
    finally:
        await stable.kill()
        await shadow.kill()
