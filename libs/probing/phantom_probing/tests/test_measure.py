"""Latency and throughput of a real server."""

from __future__ import annotations

import pytest

from phantom_platform.errors import Invalid
from phantom_probing import measure
from phantom_probing.rows import Rows, invented

from .conftest import Serve


async def test_latency_and_throughput_of_a_real_server(serve: Serve) -> None:
    async with serve("good") as client:
        rows = invented(client.schema, 40)
        latency = await measure.latency(client, rows, calls=150, warm_up=20)
        throughput = await measure.throughput(client, rows, in_flight=8, duration_s=0.5, warm_up_s=0.1)
    assert latency.calls == 150
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms < 1000
    assert throughput.requests_per_s == throughput.requests / 0.5
    assert throughput.requests_per_s > 1000 / latency.p99_ms / 4


async def test_a_server_that_refuses_the_rows_has_no_figures(serve: Serve) -> None:
    async with serve("good") as client:
        rows = invented(client.schema, 5)
        without = Rows({"amount": rows.columns["amount"]}, 5)
        with pytest.raises(Invalid) as latency:
            await measure.latency(client, without, calls=100)
        with pytest.raises(Invalid) as throughput:
            await measure.throughput(client, without, duration_s=0.2, warm_up_s=0)
    assert latency.value.code == throughput.value.code == "missing_feature"


async def test_too_few_calls_are_refused(serve: Serve) -> None:
    async with serve("price") as client:
        with pytest.raises(Invalid) as error:
            await measure.latency(client, invented(client.schema, 5), calls=20)
        assert error.value.code == "too_few_calls"
        with pytest.raises(Invalid) as nothing:
            await measure.latency(client, invented(client.schema, 0), calls=100)
        assert nothing.value.code == "no_rows"
