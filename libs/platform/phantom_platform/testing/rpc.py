"""Real servers in the test's own process, and stand-ins for services that have only the methods a test needs."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from prometheus_client import CollectorRegistry

from phantom_platform.errors import Unsupported
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.rpc.audit import AuditSink
from phantom_platform.rpc.server import GrpcServer, ServerLimits
from phantom_platform.rpc.servicer import Servicer

_KINDS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


_QUICK = ServerLimits(drain_s=1.0)


@dataclass(frozen=True)
class Serving:
    """A server that runs; `registry` is where its metrics are."""

    address: str
    registry: CollectorRegistry
    server: GrpcServer


@asynccontextmanager
async def serving(
    *servicers: Servicer,
    verifier: TokenVerifier | None,
    unready: Callable[[], Mapping[str, str]] = dict,
    limits: ServerLimits = _QUICK,
) -> AsyncIterator[Serving]:
    """A GrpcServer on a free loopback port, for the time of the block."""
    registry = CollectorRegistry()
    server = GrpcServer(
        servicers,
        host="127.0.0.1",
        port=0,
        verifier=verifier,
        registry=registry,
        unready=unready,
        limits=limits,
    )
    await server.start()
    try:
        yield Serving(server.address, registry, server)
    finally:
        await server.stop()


def standing_in(
    full_service_name: str, *, audit: AuditSink | None = None, **methods: Callable[..., Any]
) -> Servicer:
    """A servicer from the given `async (request, context)` functions; every other method is UNIMPLEMENTED.

    The service's `_pb2` module must have been imported.
    """
    service = descriptor_pool.Default().FindServiceByName(full_service_name)
    if unknown := methods.keys() - {each.name for each in service.methods}:
        raise ValueError(f"{full_service_name} has no {sorted(unknown)}")

    def add(server: Any) -> None:
        handlers = {each.name: _handler(each, methods.get(each.name)) for each in service.methods}
        server.add_registered_method_handlers(full_service_name, handlers)

    return Servicer(add, full_service_name, audit)


def _handler(method: Any, behaviour: Callable[..., Any] | None) -> Any:
    async def absent(request: Any, context: Any) -> Any:
        raise Unsupported(f"{method.full_name} is not part of this test")

    async def absent_stream(request: Any, context: Any) -> AsyncIterator[Any]:
        raise Unsupported(f"{method.full_name} is not part of this test")
        yield

    chosen = behaviour or (absent_stream if method.server_streaming else absent)
    if inspect.isasyncgenfunction(chosen) != method.server_streaming:
        raise ValueError(
            f"{method.full_name} streams its answer or does not, unlike the function given for it"
        )
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    make = _KINDS[method.client_streaming, method.server_streaming]
    return make(chosen, request.FromString, response.SerializeToString)
