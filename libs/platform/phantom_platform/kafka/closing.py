"""Ending a consumer, whatever state its connection is in."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer

from phantom_platform.telemetry import logs

log = logs.get(__name__)


async def close(consumer: AIOKafkaConsumer, within_s: float = 3.0) -> None:
    """Stop it. Raises nothing but the caller's own cancellation; what takes longer is cut short.

    While Kafka is away, aiokafka's `stop` raises the CancelledError of a fetch that waits to be repeated, and leaves
    the client's tasks running [ran, 0.14]. Nobody wished to cancel the caller, so it runs in a task of its own.
    """
    stopping = asyncio.create_task(_stop(consumer))
    try:
        await asyncio.wait([stopping], timeout=within_s)
    finally:
        stopping.cancel()
    if stopping.done() and not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.debug("consumer did not stop cleanly", action="consumer_stop", reason=repr(error))


async def _stop(consumer: AIOKafkaConsumer) -> None:
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        # A second `stop` would do nothing.
        await consumer._client.close()
