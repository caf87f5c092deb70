"""What a service hands to the server, and what its proto says about each of its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pool, message_factory

from phantom.options.v1 import options_pb2

if TYPE_CHECKING:
    from phantom_platform.rpc.audit import AuditSink


class ServicerError(TypeError):
    """A mistake in the set-up of a service; it refuses to start."""


@dataclass(frozen=True)
class Servicer:
    """The handlers of one gRPC service, and where refusals of its calls are audited."""

    add_to_server: Callable[[Any], None]
    full_service_name: str
    audit: AuditSink | None = None


def servicer(
    add: Callable[[Any, Any], None],
    instance: object,
    full_service_name: str,
    *,
    audit: AuditSink | None = None,
) -> Servicer:
    """`rpc.servicer(add_XServicer_to_server, instance, "phantom.x.v1.XService", audit=…)`.

    `audit` is needed where a method mutates: `DatabaseAuditSink(database)`.
    """

    def add_to_server(server: Any) -> None:
        add(instance, server)

    return Servicer(add_to_server, full_service_name, audit)


@dataclass(frozen=True)
class Method:
    """One RPC as its proto declares it."""

    service: str
    name: str
    request: Any
    permission: str
    is_public: bool
    mutates: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def methods_of(full_service_name: str) -> dict[str, Method]:
    """Every method of a service by name; `ServicerError` where one does not say who may call it."""
    try:
        service = descriptor_pool.Default().FindServiceByName(full_service_name)
    except KeyError as error:
        raise ServicerError(
            f"no service {full_service_name} among the loaded protos; check the name"
        ) from error
    return {each.name: _method(full_service_name, each) for each in service.methods}


def _method(service: str, descriptor: Any) -> Method:
    access = descriptor.GetOptions().Extensions[options_pb2.access]
    if bool(access.permission) == access.public:
        raise ServicerError(
            f"{service}.{descriptor.name} needs exactly one of permission and public in its option "
            "(phantom.options.v1.access)"
        )
    return Method(
        service=service,
        name=descriptor.name,
        request=message_factory.GetMessageClass(descriptor.input_type),
        permission=access.permission,
        is_public=access.public,
        mutates=access.mutates,
    )


class _Collector:
    """Stands in for a server to see which handlers a generated `add_…_to_server` registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Generated code registers the same handlers in both ways; the other one names them."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self.handlers[service] = dict(handlers)


def handlers_of(servicer: Servicer) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """The handlers by method name, as the generated code registers them."""
    collector = _Collector()
    servicer.add_to_server(collector)
    if set(collector.handlers) != {servicer.full_service_name}:
        raise ServicerError(
            f"{servicer.full_service_name} registers {sorted(collector.handlers)} instead of itself"
        )
    return collector.handlers[servicer.full_service_name]
