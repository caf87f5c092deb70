"""Events in."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pydantic import ValidationError

from phantom_contracts.events.gateway import GatewayJoined, GatewayLeft
from phantom_contracts.events.upstream import OutcomeReported
from phantom_contracts.topics import OUTCOMES, PREDICTIONS, ROUTE_ACKS
from phantom_monitor.converters import decode_batch
from phantom_monitor.reconciler import ReadingClock
from phantom_monitor.service import Monitor
from phantom_monitor.values import Reported, unix_us
from phantom_platform.errors import Invalid
from phantom_platform.kafka import RawRecord, Received, Router
from phantom_platform.postgres import Transaction


def router(monitor: Monitor, reading: ReadingClock) -> Router:
    """Predictions and outcomes in batches, gateways' comings and goings one by one."""
    routes = Router("monitor")

    async def on_predictions(tx: Transaction, records: Sequence[RawRecord]) -> None:
        batches = [decode_batch(record.value, record.partition) for record in records]
        await monitor.record_predictions(tx, batches)
        reading.heard()

    async def on_outcomes(tx: Transaction, records: Sequence[RawRecord]) -> None:
        await monitor.record_outcomes(tx, [_reported(monitor, record) for record in records])

    async def on_gateway_joined(tx: Transaction, received: Received[GatewayJoined]) -> None:
        await monitor.gateway_joined(tx, received.event.boot_id, received.time)

    async def on_gateway_left(tx: Transaction, received: Received[GatewayLeft]) -> None:
        await monitor.gateway_left(tx, received.event.boot_id, received.time)

    routes.on_batch(PREDICTIONS, on_predictions)
    routes.on_batch(OUTCOMES, on_outcomes)
    routes.on(ROUTE_ACKS, GatewayJoined, on_gateway_joined)
    routes.on(ROUTE_ACKS, GatewayLeft, on_gateway_left)
    return routes


def _reported(monitor: Monitor, record: RawRecord) -> Reported:
    try:
        event = OutcomeReported.model_validate_json(record.value or b"")
        prediction_id = str(UUID(event.prediction_id)) if event.prediction_id is not None else None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        raise Invalid(f"no outcome: {where}: {first['msg']}", code="undecodable") from error
    except ValueError as error:
        raise Invalid(
            f"prediction_id {event.prediction_id!r} is not a UUID", code="invalid_prediction_id"
        ) from error
    return Reported(
        workspace=event.workspace,
        endpoint=monitor.canonical(event.workspace, event.endpoint),
        kind="request" if prediction_id is None else "prediction",
        id=prediction_id or event.request_id or "",
        row=event.row,
        event_us=unix_us(event.event_time),
        partition=record.partition,
        offset=record.offset,
        label=event.label,
        fields=event.fields,
    )
