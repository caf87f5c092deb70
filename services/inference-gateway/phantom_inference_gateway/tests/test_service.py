"""Calls answered over real frame streams to fake model servers: retries, draining, death, ejection, deadlines."""

import asyncio
from dataclasses import replace

import pytest

from inference import grpc_service_pb2 as oip
from phantom_contracts.events.deployer import BucketRange
from phantom_contracts.schema import Column, EndpointSchema
from phantom_inference_gateway.domain.frames import FrameLimits
from phantom_inference_gateway.domain.routing import Decision
from phantom_inference_gateway.service import Limits
from phantom_inference_gateway.tests.fakes import Outcome, call, route, until
from phantom_inference_gateway.tests.running import KEY, RULE, running
from phantom_inference_gateway.upstreams import StreamRule
from phantom_platform.errors import Exhausted, NotFound


def fails(code, reason="", times=10**9):
    left = [times]

    async def behave(request, server):
        left[0] -= 1
        return Outcome(code, reason, "as told") if left[0] >= 0 else Outcome()

    return behave


def replica_of(answer):
    return oip.ModelInferResponse.FromString(answer.body).parameters["replica"].string_param


async def test_a_call_is_answered_logged_and_attributed():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        answer = await setup.gateway.infer(call("req-1", unit="N1", name="flights"))
        assert (answer.status, answer.revision, answer.variant, answer.route_version) == (
            0,
            "f.1",
            "control",
            1,
        )
        assert oip.ModelInferResponse.FromString(answer.body).id == "req-1"
        assert dict(answer.headers())["phantom-prediction-id"][14] == "7"
        entry = setup.log.entries[0]
        assert (entry.endpoint_key, entry.request_id, entry.unit) == (KEY, "req-1", "N1")
        assert (entry.served_replica, entry.decision, entry.status) == ("r1", Decision.ROLLOUT, 0)
        assert [part[1:] for part in entry.parts] == [(0, 1, 0)]
        assert setup.routed == [[KEY]]
        opening = one.opens[0]
        assert (opening.endpoint, opening.revision, opening.boot_id) == ("flights-prod", "f.1", "boot")
        assert EndpointSchema.model_validate_json(opening.endpoint_schema).columns[0].name == "a"
        assert one.frames[0].remaining_ms[0] in range(4000, 5001)


async def test_a_call_without_a_unit_is_logged_unsticky():
    async with running() as setup:
        await setup.serve(route(("f.1", [await setup.server("r1")])))
        await setup.gateway.infer(call("req-1"))
        await setup.gateway.infer(call())
        assert [entry.unit for entry in setup.log.entries] == ["", ""]


async def test_calls_share_frames_and_each_gets_its_own_answer():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        answers = await asyncio.gather(*(setup.gateway.infer(call(f"q{n}")) for n in range(1500)))
        ids = [oip.ModelInferResponse.FromString(answer.body).id for answer in answers]
        assert ids == [f"q{n}" for n in range(1500)]
        assert len(one.frames) < 100
        assert max(len(frame.requests) for frame in one.frames) <= 256
        assert setup.gateway.in_flight == 0


async def test_an_unknown_endpoint_is_not_found_and_leaves_no_record():
    async with running() as setup:
        await setup.serve(route(("f.1", [await setup.server("r1")])))
        with pytest.raises(NotFound):
            await setup.gateway.infer(call(name="nope"))
        assert setup.log.entries == []


async def test_a_failed_answer_is_retried_on_another_replica_then_on_the_stable_revision():
    async with running() as setup:
        stable = await setup.server("s1")
        bad = [await setup.server(f"c{n}", "f.2", fails(14, "broken")) for n in (1, 2)]
        everything = {"candidate": "f.2", "share": 10_000}
        await setup.serve(route(("f.1", [stable]), ("f.2", bad), **everything))
        answer = await setup.gateway.infer(call("q", unit="N1"))
        assert (answer.status, answer.revision, answer.variant, answer.fallback) == (
            0,
            "f.1",
            "candidate",
            True,
        )
        assert ("phantom-fallback", "true") in answer.headers()
        entry = setup.log.entries[0]
        assert (entry.assigned_revision, entry.served_revision, entry.served_replica) == ("f.2", "f.1", "s1")
        assert sorted(each.replica for each in entry.failed_attempts) == ["c1", "c2"]
        assert {(each.revision, each.code) for each in entry.failed_attempts} == {("f.2", 14)}
        assert (setup.metrics.retries, setup.metrics.fallbacks) == (2, 1)


async def test_a_pinned_version_never_falls_back():
    async with running() as setup:
        stable, bad = await setup.server("s1"), await setup.server("c1", "f.2", fails(14, "broken"))
        await setup.serve(route(("f.1", [stable]), ("f.2", [bad])))
        answer = await setup.gateway.infer(call("q", version="2.0.0"))
        assert (answer.status, answer.reason, answer.revision, answer.fallback) == (
            14,
            "broken",
            "f.2",
            False,
        )
        entry = setup.log.entries[0]
        assert (entry.decision, entry.served_revision, entry.failed_attempts) == (Decision.PIN, "f.2", ())
        assert stable.requests == []


async def test_the_client_s_mistake_is_answered_as_it_is_and_hurts_no_neighbour():
    async def behave(request, server):
        return Outcome(3, "wrong_shape", "tensor a") if request.id.startswith("bad") else Outcome()

    async with running() as setup:
        one = await setup.server("r1", behave=behave)
        await setup.serve(route(("f.1", [one])))
        names = [f"{'bad' if n % 3 == 0 else 'ok'}{n}" for n in range(60)]
        answers = await asyncio.gather(*(setup.gateway.infer(call(name_)) for name_ in names))
        for name_, answer in zip(names, answers, strict=True):
            expected = (3, "wrong_shape", "tensor a") if name_.startswith("bad") else (0, "", "")
            assert (answer.status, answer.reason, answer.message) == expected
        assert len(one.requests) == 60
        assert [entry.parts == () for entry in setup.log.entries if entry.status] == [True] * 20
        assert setup.pool.ejections == 0


async def test_refused_as_draining_costs_nothing_and_the_replica_gets_no_more():
    # It would take its stream back: a replica that really drains refuses that.
    rule = replace(RULE, backoff_base_s=5.0, backoff_limit_s=5.0)
    async with running(rule, Limits(calls=64)) as setup:
        one, two = await setup.server("r1", behave=fails(14, "draining")), await setup.server("r2")
        await setup.serve(route(("f.1", [one, two])))
        answers = [await setup.gateway.infer(call(f"q{n}")) for n in range(30)]
        assert {(answer.status, answer.fallback) for answer in answers} == {(0, False)}
        assert len(one.requests) <= 1
        assert setup.metrics.retries == setup.gateway.budget.taken == 0
        assert all(entry.failed_attempts == () for entry in setup.log.entries)


async def test_a_draining_replica_s_record_is_applied_like_one_from_kafka():
    async with running() as setup:
        one, two = await setup.server("r1"), await setup.server("r2")
        await setup.serve(route(("f.1", [one, two])))
        one.answers.clear()
        two.answers.clear()
        calls = [asyncio.create_task(setup.gateway.infer(call(f"q{n}"))) for n in range(20)]
        await one.got(1)
        await two.got(1)
        one.drain(route(("f.1", [two]), version=4).model_dump_json().encode())
        await until(lambda: setup.routes.find("default", "flights").version == 4)
        # Work in execution there still counts as undrained.
        assert setup.routes.progress()[KEY].applied == 4
        assert setup.routes.progress()[KEY].drained == 1
        one.answers.set()
        two.answers.set()
        assert {(await each).status for each in calls} == {0}
        assert setup.routes.progress()[KEY].drained == 4
        await until(lambda: one.open_streams == 0)
        assert two.open_streams == 1
        setup.routes.route_changed(
            KEY, route(("f.1", [one]), version=3), 3
        )  # Kafka's older one changes nothing
        assert setup.routes.find("default", "flights").version == 4


async def test_a_draining_replica_s_record_of_another_endpoint_is_refused():
    async with running() as setup:
        one, two = await setup.server("r1"), await setup.server("r2")
        await setup.serve(route(("f.1", [one])))
        other = route(("f.1", [two]), endpoint="other-prod", aliases=())
        setup.routes.route_changed("default/other-prod", other, 1)
        await setup.routes.settled()
        for endpoint, workspace, version in (
            ("other-prod", "default", 1),
            ("other-prod", "default", 9),
            ("new-prod", "default", 9),
            ("flights-prod", "team", 9),
        ):
            record = route(
                ("f.1", [one]), version=version, endpoint=endpoint, workspace=workspace, aliases=()
            )
            refused = setup.routes.refused_records
            one.drain(record.model_dump_json().encode())
            await until(lambda refused=refused: setup.routes.refused_records == refused + 1)
            await until(lambda: setup.pool.counts() == (2, 2))
        assert list(setup.routes.progress()) == [KEY, "default/other-prod"]
        assert setup.routes.find("default", "other-prod").version == 1
        assert two.open_streams == 1


async def test_a_wrong_replica_is_not_used():
    async with running() as setup:
        impostor, two = await setup.server("someone-else"), await setup.server("r2")
        record = route(("f.1", [impostor, two]))
        replicas = (record.revisions[0].replicas[0].model_copy(update={"id": "r1"}), two.replica())
        revision = record.revisions[0].model_copy(update={"replicas": replicas})
        await setup.serve(record.model_copy(update={"revisions": (revision,)}))
        answers = [await setup.gateway.infer(call()) for _ in range(20)]
        assert {replica_of(answer) for answer in answers} == {"r2"}
        assert impostor.requests == []
        assert any("wrong_replica" in each for each in setup.pool.unusable())


async def test_a_dead_stream_s_calls_are_retried_once_each_alone_on_the_same_revision():
    async with running() as setup:
        one, two = await setup.server("r1"), await setup.server("r2")
        await setup.serve(route(("f.1", [one, two])))
        one.answers.clear()
        two.answers.clear()
        calls = [asyncio.create_task(setup.gateway.infer(call(f"q{n}"))) for n in range(40)]
        await one.got(1)
        await two.got(1)
        await until(lambda: len(one.requests) + len(two.requests) == 40)
        lost = len(one.requests)
        two.answers.set()
        await one.kill()
        answers = [await each for each in calls]
        assert {(answer.status, answer.fallback) for answer in answers} == {(0, False)}
        assert {replica_of(answer) for answer in answers} == {"r2"}
        again = [frame for frame in two.frames if len(frame.requests) == 1][-lost:]
        assert len(again) == lost
        failed = [entry.failed_attempts for entry in setup.log.entries if entry.failed_attempts]
        assert [(each[0].replica, each[0].code) for each in failed] == [("r1", 14)] * lost


async def test_a_row_that_kills_its_server_takes_down_two_replicas_at_most_and_not_the_stable_revision():
    async def behave(request, server):
        if request.id == "poison":
            asyncio.create_task(server.kill())  # noqa: RUF006
            await asyncio.sleep(10)
        return Outcome()

    async with running() as setup:
        stable = await setup.server("s1", behave=behave)
        candidates = [await setup.server(f"c{n}", "f.2", behave) for n in (1, 2, 3)]
        record = route(("f.1", [stable]), ("f.2", candidates), candidate="f.2", share=10_000)
        await setup.serve(record)
        answer = await setup.gateway.infer(call("poison", unit="N1"))
        assert (answer.status, answer.reason) == (14, "replica_lost")
        assert stable.requests == []
        assert sum(bool(each.requests) for each in candidates) == 2


async def test_the_budget_bounds_retries():
    async with running(limits=Limits(calls=5)) as setup:
        bad = [await setup.server(f"r{n}", behave=fails(14, "broken")) for n in (1, 2)]
        await setup.serve(route(("f.1", bad)))
        for _ in range(40):
            await setup.gateway.infer(call())
        assert setup.gateway.budget.taken <= 5 + 8
        assert setup.gateway.budget.refused > 0


async def test_failures_in_a_row_eject_and_a_probe_brings_back():
    async with running() as setup:
        sick, well = await setup.server("r1", behave=fails(13, "boom", times=3)), await setup.server("r2")
        await setup.serve(route(("f.1", [sick, well])))
        for _ in range(40):
            await setup.gateway.infer(call())
            if setup.pool.ejections:
                break
        count = len(sick.requests)
        assert count == 3
        for _ in range(20):
            assert replica_of(await setup.gateway.infer(call())) == "r2"
        await until(lambda: setup.pool.counts() == (2, 2))
        async with asyncio.timeout(5):
            while replica_of(await setup.gateway.infer(call())) != "r1":
                pass


async def test_a_replica_that_stays_silent_past_a_deadline_is_ejected_and_its_stream_closed():
    async with running() as setup:
        silent, well = await setup.server("r1"), await setup.server("r2")
        await setup.serve(route(("f.1", [silent, well])))
        silent.answers.clear()
        calls = [asyncio.create_task(setup.gateway.infer(call(f"q{n}", timeout_s=0.15))) for n in range(20)]
        answers = [await each for each in calls]
        assert {answer.status for answer in answers} == {0, 4}
        assert {answer.reason for answer in answers if answer.status} == {"deadline_exceeded"}
        await until(lambda: setup.pool.ejections == 1)
        for _ in range(10):
            assert (await setup.gateway.infer(call())).status == 0
        late = [entry for entry in setup.log.entries if entry.status == 4]
        assert len(late) == sum(answer.status == 4 for answer in answers)


async def test_a_passed_deadline_is_answered_at_once():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        answer = await setup.gateway.infer(call(timeout_s=-1))
        assert (answer.status, answer.reason) == (4, "deadline_exceeded")
        assert one.requests == []


async def test_a_cancelled_call_leaves_nothing_behind():
    async with running(StreamRule(frames=FrameLimits(in_flight=1))) as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        one.answers.clear()
        calls = [asyncio.create_task(setup.gateway.infer(call("q0")))]
        await one.got(1)
        calls += [asyncio.create_task(setup.gateway.infer(call(f"q{n}"))) for n in range(1, 10)]
        await until(lambda: setup.gateway.in_flight == 10)
        for each in calls:
            each.cancel()
        await asyncio.wait(calls)
        assert {entry.status for entry in setup.log.entries} == {1}
        assert setup.gateway.in_flight == 0
        assert setup.routes.progress()[KEY].drained == 1
        one.answers.set()
        assert (await setup.gateway.infer(call("next"))).status == 0
        assert len(one.requests) == 2  # those that had not been written never are


async def test_beyond_the_limit_calls_are_shed_at_once():
    async with running(limits=Limits(calls=10, size=10_000)) as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        one.answers.clear()
        calls = [asyncio.create_task(setup.gateway.infer(call(f"q{n}"))) for n in range(10)]
        await one.got(1)
        with pytest.raises(Exhausted, match="10 calls") as refused:
            await setup.gateway.infer(call())
        assert refused.value.code == "overloaded"
        assert setup.metrics.shed == 1
        one.answers.set()
        await asyncio.gather(*calls)
        big = call()
        big.body = b"x" * 20_000
        with pytest.raises(Exhausted):
            await setup.gateway.infer(big)
        await setup.gateway.idle()


async def test_nobody_ready_is_unavailable_with_its_reason():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        await one.kill()
        await until(lambda: setup.pool.counts()[0] == 0)
        answer = await setup.gateway.infer(call("q"))
        assert (answer.status, answer.reason, answer.retry_after_s) == (14, "no_ready_replica", 1.0)
        setup.gateway.is_stale = lambda: True
        assert (await setup.gateway.infer(call("q"))).reason == "route_stale"
        assert [entry.status for entry in setup.log.entries] == [14, 14]
        await one.listen()
        await until(lambda: setup.pool.counts()[0] == 1)
        assert (await setup.gateway.infer(call("q"))).status == 0


async def test_an_assigned_revision_without_replicas_falls_back_to_the_stable_one():
    async with running() as setup:
        stable, gone = await setup.server("s1"), await setup.server("c1", "f.2")
        await gone.kill()
        await setup.serve(route(("f.1", [stable]), ("f.2", [gone]), candidate="f.2", share=10_000))
        answer = await setup.gateway.infer(call("q", unit="N1"))
        assert (answer.status, answer.revision, answer.fallback) == (0, "f.1", True)
        assert setup.log.entries[0].failed_attempts == ()


async def test_a_new_revision_meets_an_open_stream():
    async with running() as setup:
        stable, new = await setup.server("s1"), await setup.server("c1", "f.2")
        await setup.serve(route(("f.1", [stable])))
        setup.routes.route_changed(
            KEY, route(("f.1", [stable]), ("f.2", [new]), version=2, candidate="f.2", share=10_000), 2
        )
        versions = set()
        while 2 not in versions:
            answer = await setup.gateway.infer(call("q", unit="N1"))
            versions.add(answer.route_version)
            assert (answer.status, answer.fallback) == (0, False)
            assert answer.revision == {1: "f.1", 2: "f.2"}[answer.route_version]


async def test_a_grown_schema_is_said_on_the_open_stream():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        await setup.gateway.infer(call())
        grown = EndpointSchema(
            version=2, columns=(Column(name="a"), Column(name="b"), Column(name="c")), widths=(2,)
        )
        await setup.serve(route(("f.1", [one]), version=2, endpoint_schema=grown))
        await setup.gateway.infer(call())
        await until(lambda: len(one.opens) == 2)
        assert [opening.schema_version for opening in one.opens] == [1, 2]
        assert one.open_streams == 1


async def test_a_bad_record_keeps_the_last_good_one():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        bad = route(("f.1", [one]), version=2, allocations=(BucketRange(start=5, end=1, arm="candidate"),))
        with pytest.raises(ValueError, match="not inside"):
            setup.routes.route_changed(KEY, bad, 2)
        with pytest.raises(ValueError, match="the record says"):
            setup.routes.route_changed("default/other", route(("f.1", [one]), version=2), 2)
        assert (await setup.gateway.infer(call())).route_version == 1
        assert setup.routes.progress()[KEY].applied == 1


async def test_a_deleted_endpoint_is_gone_and_its_streams_close():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        setup.routes.route_deleted(KEY, 2)
        with pytest.raises(NotFound):
            await setup.gateway.infer(call())
        await until(lambda: one.open_streams == 0)
        assert setup.routes.progress()[KEY].applied == 2
        assert setup.routed[-1] == []


async def test_frames_are_counted_on_when_their_replica_is_gone():
    async with running() as setup:
        one, two = await setup.server("r1"), await setup.server("r2", "f.2")
        await setup.serve(route(("f.1", [one])))
        await setup.gateway.infer(call())
        await setup.serve(route(("f.2", [two]), version=2))
        await setup.gateway.infer(call())
        assert setup.pool.frames() == (2, 2)
        assert setup.routes.revisions() == {(KEY, "f.2")}


async def test_the_endpoint_describes_itself():
    async with running() as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        metadata = setup.gateway.model_metadata("flights", "", "default")
        assert (metadata.name, metadata.versions) == ("flights", ("1.0.0",))
        assert [(each.name, each.shape) for each in metadata.inputs] == [("features", (-1, 2))]
        assert [each.name for each in metadata.outputs] == ["label", "probabilities", "score"]
        assert setup.gateway.model_ready("flights", "", "default")
        assert not setup.gateway.model_ready("flights", "9", "default")
        assert not setup.gateway.model_ready("none", "", "default")
        await one.kill()
        await until(lambda: not setup.gateway.model_ready("flights", "1.0.0", "default"))


async def test_frames_stay_within_their_limits_with_large_bodies():
    async with running(RULE.__class__(frames=FrameLimits(size=100_000), backoff_base_s=0.02)) as setup:
        one = await setup.server("r1")
        await setup.serve(route(("f.1", [one])))
        calls = []
        for n in range(20):
            each = call(f"q{n}")
            each.body += b"\x3a" + b"\xb0\xea\x01" + b"\0" * 30_000
            calls.append(setup.gateway.infer(each))
        answers = await asyncio.gather(*calls)
        assert {answer.status for answer in answers} == {0}
        assert max(sum(map(len, frame.requests)) for frame in one.frames) <= 100_000
