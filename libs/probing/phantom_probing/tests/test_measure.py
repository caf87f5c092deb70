"""Latency and throughput of a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psutil
import pytest

from phantom_platform.errors import Invalid, Unavailable
from phantom_probing import apart, measure
from phantom_probing.rows import Rows, invented

from .conftest import Serve


async def test_latency_and_throughput_of_a_real_server(serve: Serve) -> None:
    async with serve("good") as client:
        requests = measure.single_rows(client, invented(client.schema, 40))
        latency = await measure.latency(client, requests, calls=150, warm_up=20)
        throughput = await measure.throughput(client, requests, in_flight=8, duration_s=0.5, warm_up_s=0.1)
    assert latency.calls == 150
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms < 1000
    assert throughput.requests_per_s == throughput.requests / 0.5
    assert throughput.requests_per_s > 1000 / latency.p99_ms / 4


async def test_requests_are_spread_over_the_rows(serve: Serve) -> None:
    async with serve("price") as client:
        rows = invented(client.schema, 10)
        found = measure.single_rows(client, rows, 5)
    assert found == [client.request(rows.part(at, at + 1)) for at in (0, 2, 4, 6, 8)]


async def test_a_process_of_its_own_measures_alike(serve: Serve) -> None:
    async with serve("good") as client:
        requests = measure.single_rows(client, invented(client.schema, 40))
        latency = await apart.latency(client.target, requests, calls=150, warm_up=20)
        throughput = await apart.throughput(client.target, requests, duration_s=0.5, warm_up_s=0.1)
        lost = replace(client.target, model_name="another", address="127.0.0.1:1")
        with pytest.raises(Unavailable):
            await apart.latency(lost, requests, calls=100)
        with pytest.raises(Invalid) as error:
            await apart.latency(client.target, requests[:1], calls=10)
        assert error.value.code == "too_few_calls"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await apart.throughput(client.target, requests, duration_s=60)
    assert latency.calls == 150
    assert 0 < latency.p50_ms <= latency.p95_ms
    assert throughput.in_flight == 32
    assert throughput.requests > 20
    assert not [each for each in psutil.Process().children() if "phantom_probing.apart" in each.cmdline()]


async def test_a_server_that_refuses_the_rows_has_no_figures(serve: Serve) -> None:
    async with serve("good") as client:
        rows = invented(client.schema, 5)
        without = measure.single_rows(client, Rows({"amount": rows.columns["amount"]}, 5))
        with pytest.raises(Invalid) as latency:
            await measure.latency(client, without, calls=100)
        with pytest.raises(Invalid) as throughput:
            await measure.throughput(client, without, duration_s=0.2, warm_up_s=0)
    assert latency.value.code == throughput.value.code == "missing_feature"


async def test_too_few_calls_are_refused(serve: Serve) -> None:
    async with serve("price") as client:
        with pytest.raises(Invalid) as error:
            await measure.latency(client, [b""], calls=20)
        assert error.value.code == "too_few_calls"
        with pytest.raises(Invalid) as nothing:
            await measure.latency(client, [], calls=100)
        assert nothing.value.code == "no_rows"
