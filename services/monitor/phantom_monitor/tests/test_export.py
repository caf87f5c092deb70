from __future__ import annotations

from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from phantom_contracts import metrics as catalogue
from phantom_monitor.export import Exporter
from phantom_monitor.store import PostgresPredictions, PostgresWindows

from .conftest import NOON, Call, World, batch
from .test_monitor import READING, outcome, report

LABELS = {"workspace": "default", "endpoint": "fraud-prod", "revision": "fraud-prod.1", "arm": "control"}


async def test_figures_are_exported_and_counters_survive_a_restart(world: World) -> None:
    calls = [Call(p_fraud=0.1 + 0.8 * (i % 2), request_id=f"r{i}", latency_ms=i + 1) for i in range(80)]
    await world.record(batch(calls, sequence=1, watermark=NOON + timedelta(seconds=9)))
    await report(world, *(outcome(f"r{i}", False, offset=i) for i in range(40)))
    await world.monitor.publish_windows(READING, NOON + timedelta(seconds=10))
    for _ in range(2):  # the second exporter is a restarted process
        registry = CollectorRegistry()
        exporter = Exporter(
            PostgresWindows(world.database), PostgresPredictions(world.database), world.clock, registry
        )
        await exporter.refresh()

        def sample(name: str, **more: str) -> float | None:
            return registry.get_sample_value(name, LABELS | more)  # noqa: B023

        assert sample(catalogue.REQUESTS.name, decision="rollout") == 80
        assert sample(catalogue.CLASSES.name, label="fraud") == 40
        assert sample(catalogue.PREDICTION_LATENCY.name, quantile="0.95") == pytest.approx(76, rel=0.01)
        assert sample(catalogue.ERROR_RATE.name) == 0
        assert sample(catalogue.THROUGHPUT.name) == pytest.approx(80 / 60)
        assert sample(catalogue.ACCURACY.name) == pytest.approx(0.5)
        assert sample(catalogue.LABEL_COVERAGE.name) == pytest.approx(0.5)
        windows = {"workspace": "default", "endpoint": "fraud-prod", "state": "complete"}
        assert registry.get_sample_value(catalogue.WINDOWS.name, windows) == 1
