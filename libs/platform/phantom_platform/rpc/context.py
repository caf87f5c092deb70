"""Who calls the RPC that is being handled."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from phantom_platform.errors import Forbidden, Unauthenticated

DEFAULT_WORKSPACE = "default"
ANONYMOUS = "anonymous"


def permits(granted: str, wanted: str) -> bool:
    """Whether a granted permission covers a wanted one: exactly, as `models:*`, or as `*`."""
    if granted in ("*", wanted):
        return True
    return granted.endswith(":*") and wanted.startswith(granted[:-1])


@dataclass(frozen=True)
class Caller:
    """A principal acting in one workspace, with what its token allows."""

    principal: str
    workspace: str = DEFAULT_WORKSPACE
    permissions: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def may(self, permission: str) -> bool:
        return any(permits(granted, permission) for granted in self.permissions)

    def require(self, permission: str) -> None:
        """Raise `Forbidden` naming the permission unless the caller has it."""
        if not self.may(permission):
            raise Forbidden(
                f"{self.principal} lacks the permission {permission}; ask an administrator to grant it",
                code="permission_missing",
                permission=permission,
                principal=self.principal,
            )


_caller: ContextVar[Caller | None] = ContextVar("phantom_caller", default=None)


def current_caller() -> Caller:
    """The caller of the RPC being handled. `Unauthenticated` outside an RPC, or in a public one without token."""
    caller = _caller.get()
    if caller is None:
        raise Unauthenticated("no caller here: this is not an authenticated call", code="no_caller")
    return caller


def set_caller(caller: Caller | None) -> None:
    """Only for the server, and for tests that call a servicer directly. Lasts as long as the current task."""
    _caller.set(caller)
