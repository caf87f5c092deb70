"""One call being handled: what its metadata says, and who makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from phantom_platform import ids
from phantom_platform.errors import Forbidden, Unauthenticated
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.rpc.context import ANONYMOUS, DEFAULT_WORKSPACE, Caller
from phantom_platform.rpc.servicer import Method, Servicer

WORKSPACE_KEY = "phantom-workspace"
AUTHORIZATION_KEY = "authorization"


@dataclass
class Call:
    """Mutable: `caller` once it is known, `request_id` once a request was read, `code` at the end."""

    method: Method
    servicer: Servicer
    context: grpc.aio.ServicerContext[Any, Any]
    caller: Caller | None = None
    request_id: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    metadata: Mapping[str, str | bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.metadata = {str(key): value for key, value in self.context.invocation_metadata() or ()}

    @property
    def principal(self) -> str:
        return self.caller.principal if self.caller else ANONYMOUS

    @property
    def workspace(self) -> str:
        return self.caller.workspace if self.caller else DEFAULT_WORKSPACE

    def text(self, key: str) -> str:
        """A metadata value as text; empty where it is absent."""
        value = self.metadata.get(key, "")
        return value if isinstance(value, str) else value.decode("utf-8", "replace")

    def budget_s(self, maximum_s: float) -> float:
        """Seconds this call may take: what the client allows, at most `maximum_s`."""
        remaining = self.context.time_remaining()
        return maximum_s if remaining is None else min(remaining, maximum_s)


async def identify(call: Call, verifier: TokenVerifier | None) -> Caller:
    """The caller that the bearer token proves, acting in the workspace that the metadata names."""
    if verifier is None:
        raise Unauthenticated("this server checks no tokens", code="no_verifier")
    token = _bearer(call.text(AUTHORIZATION_KEY))
    identity = await verifier.verify(token)
    workspace = call.text(WORKSPACE_KEY) or DEFAULT_WORKSPACE
    ids.check_resource_id(workspace, WORKSPACE_KEY)
    call.caller = Caller(identity.principal, workspace, identity.permissions, identity.claims)
    if workspace not in identity.workspaces and "*" not in identity.workspaces:
        raise Forbidden(
            f"{identity.principal} has no access to the workspace {workspace}",
            code="workspace_forbidden",
            workspace=workspace,
            principal=identity.principal,
        )
    return call.caller


def _bearer(authorization: str) -> str:
    if not authorization:
        raise Unauthenticated(
            "no token came with this call; log in, then send it as metadata `authorization: Bearer <token>`",
            code="token_missing",
        )
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the authorization metadata is not `Bearer <token>`", code="token_malformed")
    return token.strip()
