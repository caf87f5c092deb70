"""The one topic that every service writes: phantom.audit.v1, key = principal."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AwareDatetime

from phantom_contracts.events.base import Event


class CallAudited(Event):
    """One mutating call, or one refused."""

    type: ClassVar[str] = "phantom.audit.CallAudited.v1"
    # `anonymous` where no valid token came.
    principal: str
    # The RPC's full name, /phantom.registry.v1.RegistryService/PromoteModel.
    action: str
    resource: str = ""
    request_id: str = ""
    trace_id: str = ""
    outcome: Literal["ok", "refused"]
    # Stable error code where refused.
    error_code: str = ""
    time: AwareDatetime
