"""Who may call: nobody needs a token on loopback, unless the operator says so or the call asks for more."""

from __future__ import annotations

from typing import Protocol

from phantom_inference_gateway.calls import DEFAULT_WORKSPACE, Call
from phantom_platform.errors import Forbidden, Unauthenticated
from phantom_platform.identity.tokens import Identity
from phantom_platform.rpc.context import Caller

INFER = "predictions:infer"
OVERRIDE = "predictions:override"


class Verifier(Protocol):
    """What checks tokens, locally."""

    async def verify(self, token: str) -> Identity:
        """Raises Unauthenticated."""
        ...


class Access:
    """The gateway's `Gatekeeper`."""

    def __init__(self, verifier: Verifier, *, is_required: bool) -> None:
        self._verifier = verifier
        self._is_required = is_required

    def concerns(self, call: Call) -> bool:
        return self._is_required or bool(call.override_revision) or call.workspace != DEFAULT_WORKSPACE

    async def admit(self, call: Call) -> None:
        """Raises Unauthenticated without a valid token, Forbidden where it does not allow this call."""
        caller = await self._caller(call)
        caller.require(INFER)
        if call.override_revision:
            caller.require(OVERRIDE)

    async def require(self, call: Call, permission: str) -> None:
        (await self._caller(call)).require(permission)

    async def _caller(self, call: Call) -> Caller:
        if not call.token:
            raise Unauthenticated(
                "this call needs a token: send metadata `authorization: Bearer <token>` "
                "(`phantom-ml-studio auth login` gets one)",
                code="token_missing",
            )
        identity = await self._verifier.verify(call.token)
        if call.workspace not in identity.workspaces and "*" not in identity.workspaces:
            raise Forbidden(
                f"{identity.principal} may not act in this workspace",
                code="workspace_forbidden",
                principal=identity.principal,
            )
        return Caller(identity.principal, call.workspace, identity.permissions)
