"""Who does what, carried from the RPC's interceptor to the transaction that does it.

The interceptor of a mutating RPC sets `audit_context`. The unit of work, as it commits, asks
`audit_context.get()`; where there is one that is not `recorded`, it adds `context.event(now)` to the same
transaction's outbox (topic AUDIT, key = principal) and, after COMMIT, sets `recorded`. A use case names what
it changed with `audit.resource("default/fraud-detection")`. The interceptor counts mutating calls that left no
record (`testing.audit.assert_audited` looks at that), and writes refusals through the service's `AuditSink` in a
transaction of their own (`outcome="refused"`).
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from phantom_contracts.events.audit import CallAudited


@dataclass
class AuditContext:
    """One mutating call. Belongs to one task; changed by the use case (resource) and the unit of work."""

    principal: str
    workspace: str
    action: str
    request_id: str = ""
    trace_id: str = ""
    resource: str = ""
    recorded: bool = False

    def event(self, now: datetime, error_code: str = "") -> CallAudited:
        """The record: `ok`, or `refused` where an error code is given."""
        return CallAudited(
            workspace=self.workspace,
            principal=self.principal,
            action=self.action,
            resource=self.resource,
            request_id=self.request_id,
            trace_id=self.trace_id,
            outcome="refused" if error_code else "ok",
            error_code=error_code,
            time=now,
        )


audit_context: ContextVar[AuditContext | None] = ContextVar("phantom_audit_context", default=None)


def resource(name: str) -> None:
    """Say what the call being handled changes; nothing outside a mutating RPC."""
    context = audit_context.get()
    if context is not None:
        context.resource = name
