"""The standard health service, saying what `Application.unready` says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
WATCH_INTERVAL_S = 0.5


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """One verdict for the process, under the empty name and the name of each service in it."""

    def __init__(self, services: frozenset[str], unready: Callable[[], Mapping[str, str]]) -> None:
        self._services = services | {""}
        self._unready = unready
        self._is_stopping = asyncio.Event()

    def stop(self) -> None:
        """From now on NOT_SERVING; watchers are told and let go, so that they do not hold up the drain."""
        self._is_stopping.set()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the proto's name
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        last = None
        while True:
            status = self._status(request.service)
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            if self._is_stopping.is_set():
                return
            try:
                async with asyncio.timeout(WATCH_INTERVAL_S):
                    await self._is_stopping.wait()
            except TimeoutError:
                continue

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return SERVICE_UNKNOWN
        return NOT_SERVING if self._is_stopping.is_set() or self._unready() else SERVING
