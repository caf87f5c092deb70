"""The monitor's use cases on a real Postgres, and batches as gateways log them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest_asyncio

from phantom.predictions.v1 import prediction_batch_pb2 as wire
from phantom_contracts.schema import Feature, ModelSchema, Outcome
from phantom_monitor.converters import Batch, decode_batch
from phantom_monitor.routes import KnownRoutes
from phantom_monitor.service import Monitor
from phantom_monitor.store import (
    MIGRATIONS,
    SCHEMA,
    SESSION,
    PostgresGateways,
    PostgresPredictions,
    PostgresShadows,
    PostgresWindows,
)
from phantom_platform.ids import uuid7
from phantom_platform.postgres import Database
from phantom_platform.testing.clock import FakeClock

NOON = datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC)
FRAUD = ModelSchema(
    features=(Feature(name="amount"),),
    class_labels=("legit", "fraud"),
    outcome=Outcome(field="actual_fraud", mapping={"true": "fraud", "false": "legit"}),
)


def us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


@dataclass
class Call:
    """One answered call of one row, as a test says it."""

    p_fraud: float = 0.2
    request_id: str = ""
    unit: str = "u1"
    revision: str = "fraud-prod.1"
    served: str = ""
    arm: str = "control"
    status: int = 0
    at: datetime = NOON
    latency_ms: float = 4.0
    failed: Sequence[tuple[str, int]] = ()
    prediction_id: UUID | None = None
    # A copy that a shadow revision answered.
    is_shadow: bool = False


def batch_bytes(
    calls: Sequence[Call],
    *,
    sequence: int,
    boot_id: str = "boot-a",
    watermark: datetime = NOON,
    endpoint: str = "fraud-prod",
) -> bytes:
    """A batch of these calls, encoded as the gateway does."""
    message = wire.PredictionBatch(
        workspace="default", endpoint=endpoint, boot_id=boot_id, sequence=sequence, watermark_us=us(watermark)
    )
    names = list(dict.fromkeys(n for c in calls for n in (c.revision, c.served or c.revision)))
    message.revisions.extend(names)
    arms = list(dict.fromkeys(c.arm for c in calls))
    message.variants.extend(arms)
    message.replicas.append("r1")
    ok = [c for c in calls if c.status == 0]
    for i, call in enumerate(calls):
        _add(message, i, call, names, arms, ok.index(call) if call in ok else 0)
    if ok:
        p = np.array([c.p_fraud for c in ok], dtype="<f4")
        message.blocks.append(
            wire.Block(
                rows=len(ok),
                class_labels=["legit", "fraud"],
                label_indexes=(p >= 0.5).astype("<i4").tobytes(),
                scores=p.tobytes(),
                probabilities=np.stack([1 - p, p], axis=1).astype("<f4").tobytes(),
                runtime="xgboost",
            )
        )
    return message.SerializeToString()


def _add(
    m: wire.PredictionBatch, i: int, call: Call, names: list[str], arms: list[str], block_row: int
) -> None:
    m.prediction_ids += (call.prediction_id or uuid7()).bytes
    m.request_ids.append(call.request_id)
    m.units.append(call.unit)
    m.assigned_revisions.append(names.index(call.revision))
    m.served_revisions.append(names.index(call.served or call.revision))
    m.arms.append(arms.index(call.arm))
    m.decisions.append(wire.DECISION_SHADOW if call.is_shadow else wire.DECISION_ROLLOUT)
    m.route_versions.append(3)
    m.experiment_versions.append(0)
    m.statuses.append(call.status)
    m.kinds.append(wire.KIND_SHADOW if call.is_shadow else wire.KIND_ANSWER)
    m.received_us.append(us(call.at) - int(call.latency_ms * 1000))
    m.answered_us.append(us(call.at))
    m.rows.append(1 if call.status == 0 else 0)
    m.row_offsets.append(0)
    m.blocks_index.append(0)
    m.block_rows.append(block_row)
    m.served_replicas.append(0)
    for revision, code in call.failed:
        m.failed_attempts.append(wire.FailedAttempt(record=i, revision=revision, replica="r1", code=code))


def batch(calls: Sequence[Call], *, sequence: int, partition: int = 0, **more: object) -> Batch:
    return decode_batch(batch_bytes(calls, sequence=sequence, **more), partition)  # type: ignore[arg-type]


@dataclass
class World:
    """A monitor on a schema of its own."""

    monitor: Monitor
    database: Database
    clock: FakeClock
    routes: KnownRoutes

    async def record(self, *batches: Batch) -> None:
        async with self.database.transaction() as tx:
            await self.monitor.record_predictions(tx, batches)

    async def accuracy(
        self, revision: str = "fraud-prod.1", arm: str = "control"
    ) -> tuple[int, float | None]:
        summary = await self.monitor.summary("default", "fraud-prod", 0, int(NOON.timestamp()) + 86_400)
        _, figures = summary[revision, arm, "rollout"]
        return figures.labelled, figures.accuracy


def restarted(world: World) -> World:
    """A new monitor on what the other one stored."""
    database = world.database
    monitor = Monitor(
        database,
        PostgresWindows(database),
        PostgresGateways(database),
        PostgresPredictions(database),
        PostgresShadows(database),
        world.routes,
    )
    return World(monitor, database, world.clock, world.routes)


@pytest_asyncio.fixture(loop_scope="session")
async def world(postgres_dsn: str) -> AsyncIterator[World]:
    clock = FakeClock(NOON + timedelta(seconds=3))
    database = Database(
        postgres_dsn,
        SCHEMA,
        migrations=MIGRATIONS,
        clock=clock,
        source="phantom/monitor",
        session_settings=SESSION,
    )
    await database.start()
    routes = KnownRoutes()
    routes.remember({("default", "fraud-prod.1"): FRAUD, ("default", "fraud-prod.2"): FRAUD})
    windows, predictions = PostgresWindows(database), PostgresPredictions(database)
    try:
        yield World(
            Monitor(
                database, windows, PostgresGateways(database), predictions, PostgresShadows(database), routes
            ),
            database,
            clock,
            routes,
        )
    finally:
        async with database.transaction() as tx:
            await tx.execute(
                "TRUNCATE applied_batches, gateways, watermarks, predictions, outcomes, windows, totals,"
                " endpoint_counts, outbox, closings, shadow_rows"
            )
        await database.stop()
