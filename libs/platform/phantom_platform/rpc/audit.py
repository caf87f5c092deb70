"""Refusals of mutating calls, written in a transaction of their own."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from phantom_contracts import topics
from phantom_platform import audit
from phantom_platform.audit import AuditContext


class AuditSink(Protocol):
    """Where a server leaves the record of a call that was refused."""

    async def refused(self, context: AuditContext, error_code: str) -> None:
        """Write it durably; may raise, which is logged and does not change the caller's answer."""


class UnitOfWork(Protocol):
    """What the sink needs of a `Database`."""

    def transaction(self) -> AbstractAsyncContextManager[Any]: ...


class DatabaseAuditSink:
    """Into the service's own outbox, so that a refusal survives Kafka being away."""

    def __init__(self, database: UnitOfWork) -> None:
        self._database = database

    async def refused(self, context: AuditContext, error_code: str) -> None:
        # Without a context, or this very transaction would be recorded as a successful call.
        token = audit.audit_context.set(None)
        try:
            async with self._database.transaction() as tx:
                tx.outbox.add(topics.AUDIT, context.principal, context.event(tx.now, error_code))
        finally:
            audit.audit_context.reset(token)
