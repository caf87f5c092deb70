"""gRPC in: wire ↔ values, nothing else."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom_governance.domain.principals import Principal
from phantom_governance.service import Governance, IssuedToken, NewUser
from phantom_platform.errors import Invalid, Violation
from phantom_platform.rpc.context import current_caller

DEFAULT_PAGE = 100


class GovernanceRpc(stubs.GovernanceServiceServicer):
    """The servicer of phantom.governance.v1.GovernanceService."""

    def __init__(self, governance: Governance) -> None:
        self._governance = governance

    async def Login(self, request: pb.LoginRequest, context: Any) -> pb.LoginResponse:  # noqa: N802
        return pb.LoginResponse(
            token=_token(await self._governance.login(request.username, request.password))
        )

    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> pb.CreateUserResponse:  # noqa: N802
        new = NewUser(request.username, request.password, tuple(request.permissions), request.request_id)
        return pb.CreateUserResponse(user=_user(await self._governance.create_user(current_caller(), new)))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:  # noqa: N802
        limit = request.page_size or DEFAULT_PAGE
        users = await self._governance.list_users(_after(request.page_token), limit + 1)
        has_more = len(users) > limit
        token = base64.urlsafe_b64encode(users[limit - 1].name.encode()).decode() if has_more else ""
        return pb.ListUsersResponse(users=[_user(each) for each in users[:limit]], next_page_token=token)

    async def ChangePassword(  # noqa: N802
        self, request: pb.ChangePasswordRequest, context: Any
    ) -> pb.ChangePasswordResponse:
        await self._governance.change_password(
            current_caller(), request.current_password, request.new_password
        )
        return pb.ChangePasswordResponse()

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:  # noqa: N802
        caller = current_caller()
        return pb.WhoAmIResponse(
            principal=caller.principal,
            workspaces=caller.claims["workspaces"],
            permissions=sorted(caller.permissions),
        )

    async def IssueServiceToken(  # noqa: N802
        self, request: pb.IssueServiceTokenRequest, context: Any
    ) -> pb.IssueServiceTokenResponse:
        token = await self._governance.issue_service_token(request.service, request.key)
        return pb.IssueServiceTokenResponse(token=_token(token))

    async def IssueArtifactToken(  # noqa: N802
        self, request: pb.IssueArtifactTokenRequest, context: Any
    ) -> pb.IssueArtifactTokenResponse:
        token = await self._governance.issue_artifact_token(
            current_caller(), request.subject, request.digests
        )
        return pb.IssueArtifactTokenResponse(token=_token(token))


def _token(issued: IssuedToken) -> pb.Token:
    return pb.Token(
        value=issued.value,
        expires_at=Timestamp(seconds=int(issued.expires_at.timestamp())),
        principal=issued.principal,
        workspaces=issued.workspaces,
        permissions=issued.permissions,
    )


def _user(principal: Principal) -> pb.User:
    created_at = Timestamp()
    created_at.FromDatetime(principal.created_at)
    return pb.User(
        username=principal.name,
        permissions=principal.permissions,
        created_at=created_at,
        created_by=principal.created_by,
    )


def _after(page_token: str) -> str:
    try:
        return base64.b64decode(page_token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise Invalid(
            code="invalid_page_token",
            violations=[Violation("page_token", "is not one of ours; take it from next_page_token")],
        ) from error
