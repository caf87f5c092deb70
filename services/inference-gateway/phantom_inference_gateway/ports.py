"""What the use cases need of their neighbours."""

from __future__ import annotations

from typing import Protocol

from phantom_contracts.events.deployer import RouteRecord
from phantom_inference_gateway.attempts import Target
from phantom_inference_gateway.calls import Call, Entry
from phantom_inference_gateway.domain.tables import Table


class RouteTables(Protocol):
    """The routes as they are applied."""

    def find(self, workspace: str, name: str) -> Table[Target]:
        """Raises NotFound."""
        ...

    def record(self, table: Table[Target]) -> RouteRecord | None: ...

    def names(self, workspace: str) -> list[str]: ...


class Gatekeeper(Protocol):
    """Who may do what."""

    def concerns(self, call: Call) -> bool:
        """Whether the call needs a token at all; asked for each one."""
        ...

    async def admit(self, call: Call) -> None:
        """Raises Unauthenticated or Forbidden."""
        ...

    async def require(self, call: Call, permission: str) -> None: ...


class Records(Protocol):
    """Where answered calls are logged. Never blocks, never raises."""

    def record(self, entry: Entry) -> None: ...


class Observer(Protocol):
    """Counts."""

    retries: int
    fallbacks: int
    shed: int
    cancelled: int

    def observe(self, key: str, revision: str, variant: str, status: int, seconds: float) -> None: ...

    def refuse(self, reason: str) -> None:
        """A call ended without a record."""
        ...

    def overload(self, key: str, revision: str, why: str) -> None:
        """A call ended without a record since the revision's replicas have too much to do."""
        ...
