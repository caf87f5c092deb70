"""The monitor's door, through a real gRPC server with tokens."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from phantom.monitor.v1 import monitor_service_pb2 as pb
from phantom.monitor.v1.monitor_service_pb2_grpc import (
    MonitorServiceStub,
    add_MonitorServiceServicer_to_server,
)
from phantom_monitor.rpc import SERVICE, MonitorRpc
from phantom_platform import rpc
from phantom_platform.errors import Forbidden, Invalid, PhantomError, Unauthenticated
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import Serving, serving

from .conftest import NOON, Call, World, batch
from .test_monitor import outcome, report


@pytest_asyncio.fixture(loop_scope="session")
async def door(world: World) -> AsyncIterator[tuple[Serving, Issuer]]:
    issuer = Issuer(world.clock)
    servicer = rpc.servicer(
        add_MonitorServiceServicer_to_server,
        MonitorRpc(world.monitor),
        SERVICE,
        audit=rpc.DatabaseAuditSink(world.database),
    )
    async with serving(servicer, verifier=issuer.verifier) as running:
        yield running, issuer


async def call(
    door: tuple[Serving, Issuer], method: str, request: Any, *permissions: str, token: bool = True
) -> Any:
    running, issuer = door
    source = FixedToken(issuer.token("tester", *(permissions or ("monitoring:read",)))) if token else None
    async with rpc.control_channel(running.address, source) as channel:
        with rpc.translated():
            return await getattr(MonitorServiceStub(channel), method)(request)


async def refused(
    door: tuple[Serving, Issuer], method: str, request: Any, *permissions: str, token: bool = True
) -> PhantomError:
    with pytest.raises(PhantomError) as caught:
        await call(door, method, request, *permissions, token=token)
    return caught.value


def stamp(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


REQUESTS = [
    ("GetSummary", pb.GetSummaryRequest(endpoint="fraud-prod")),
    ("ListWindows", pb.ListWindowsRequest(endpoint="fraud-prod")),
    ("GetCounts", pb.GetCountsRequest(endpoint="fraud-prod")),
]


@pytest.mark.parametrize(("method", "request_"), REQUESTS)
async def test_every_call_needs_its_permission(
    door: tuple[Serving, Issuer], method: str, request_: Any
) -> None:
    error = await refused(door, method, request_, "models:read")
    assert isinstance(error, Forbidden)
    assert error.fields["permission"] == "monitoring:read"
    assert isinstance(await refused(door, method, request_, token=False), Unauthenticated)


async def test_a_summary_leaves_out_what_cannot_be_said(world: World, door: tuple[Serving, Issuer]) -> None:
    await world.record(batch([Call(p_fraud=0.9, request_id="r1"), Call()], sequence=1))
    (found,) = (await call(door, "GetSummary", pb.GetSummaryRequest(endpoint="fraud-prod"))).revisions
    assert (found.requests, found.latency_count, found.error_rate) == (2, 2, 0.0)
    assert found.HasField("latency_p50_ms")
    assert not found.HasField("latency_p95_ms")
    assert not found.HasField("accuracy")
    await report(world, outcome("r1", True))
    (found,) = (await call(door, "GetSummary", pb.GetSummaryRequest(endpoint="fraud-prod"))).revisions
    assert (found.labelled, found.accuracy) == (1, 1.0)


async def test_a_summary_is_of_the_time_that_was_asked_for(
    world: World, door: tuple[Serving, Issuer]
) -> None:
    await world.record(batch([Call()], sequence=1))
    noon = int(NOON.timestamp())
    before = pb.GetSummaryRequest(endpoint="fraud-prod", end_time=stamp(noon - 60))
    assert not (await call(door, "GetSummary", before)).revisions
    error = await refused(
        door, "GetSummary", pb.GetSummaryRequest(endpoint="f", start_time=stamp(9), end_time=stamp(9))
    )
    assert isinstance(error, Invalid)
    assert error.code == "empty_time_range"


async def test_windows_come_page_by_page_each_once(world: World, door: tuple[Serving, Issuer]) -> None:
    calls = [
        Call(at=NOON + timedelta(seconds=5 * i), arm=arm)
        for i in range(4)
        for arm in ("control", "candidate")
    ]
    await world.record(batch(calls, sequence=1))
    seen, token = [], ""
    while True:
        page = await call(
            door, "ListWindows", pb.ListWindowsRequest(endpoint="fraud-prod", page_size=3, page_token=token)
        )
        seen += [(w["start"], w["arm"]) for w in map(json.loads, page.windows_json)]
        token = page.next_page_token
        if not token:
            break
        # A window that appears before the page's end moves nothing.
        await world.record(batch([Call(at=NOON - timedelta(seconds=30))], sequence=len(seen) + 10))
    assert len(seen) == len(set(seen)) == 8
    assert seen == sorted(seen, key=lambda each: (each[0], each[1]))


@pytest.mark.parametrize(
    "token",
    [
        "what",
        "7",
        base64.urlsafe_b64encode(b"[1]").decode(),
        base64.urlsafe_b64encode(json.dumps(["default", "other", "", "", "", 1, "", 1]).encode()).decode(),
        base64.urlsafe_b64encode(
            json.dumps(["default", "fraud-prod", "", "", "", 2**63, "", 1]).encode()
        ).decode(),
        base64.urlsafe_b64encode(
            json.dumps(["default", "fraud-prod", "", "", "", "x", "", 1]).encode()
        ).decode(),
    ],
)
async def test_a_page_token_of_ones_own_making_is_refused(door: tuple[Serving, Issuer], token: str) -> None:
    error = await refused(door, "ListWindows", pb.ListWindowsRequest(endpoint="fraud-prod", page_token=token))
    assert (type(error), error.code) == (Invalid, "invalid_page_token")


async def test_counts_are_of_one_endpoint(world: World, door: tuple[Serving, Issuer]) -> None:
    await world.record(batch([Call(), Call(status=14)], sequence=1))
    found = await call(door, "GetCounts", pb.GetCountsRequest(endpoint="fraud-prod"))
    assert (found.answered_calls, found.failed_calls, list(found.watermarks_us)) == (1, 1, ["boot-a"])
    other = await call(door, "GetCounts", pb.GetCountsRequest(endpoint="other"))
    assert other.answered_calls == 0
