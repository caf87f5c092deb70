"""Was it audited? A sink that remembers, and the check that a mutating call left its record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from phantom_platform.audit import AuditContext


class MemoryAuditSink:
    """Remembers refusals as (context, error code)."""

    def __init__(self) -> None:
        self.refusals: list[tuple[AuditContext, str]] = []

    async def refused(self, context: AuditContext, error_code: str) -> None:
        self.refusals.append((context, error_code))


@contextmanager
def assert_audited(registry: CollectorRegistry) -> Iterator[None]:
    """The block makes at least one successful mutating call, and each commits its audit record.

    `registry` is the one given to the GrpcServer that handles the calls. The record is written by the unit of
    work in the call's own transaction; a handler that changes state in any other way fails here.
    """
    mutated, unaudited = _count(registry, "phantom_rpc_mutated"), _count(registry, "phantom_rpc_unaudited")
    yield
    if _count(registry, "phantom_rpc_mutated") == mutated:
        raise AssertionError("no mutating call succeeded on this server")
    after = _count(registry, "phantom_rpc_unaudited")
    if silent := sorted(method for method, total in after.items() if total > unaudited.get(method, 0.0)):
        raise AssertionError(f"mutating calls that committed no audit record: {', '.join(silent)}")


def _count(registry: CollectorRegistry, name: str) -> dict[str, float]:
    return {
        f"{sample.labels['service']}.{sample.labels['method']}": sample.value
        for family in registry.collect()
        if family.name == name
        for sample in family.samples
        if sample.name == f"{name}_total"
    }
