"""`Users` and `DeadLetters`: what administrators do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.governance.v1 import governance_service_pb2_grpc as governance_stubs
from phantom.platform.v1 import dead_letter_service_pb2 as dead_letters
from phantom.platform.v1 import dead_letter_service_pb2_grpc as dead_letter_stubs
from phantom_ml_studio.client import Client, new_request_id


@dataclass(frozen=True)
class User:
    """Somebody who can log in."""

    username: str
    permissions: tuple[str, ...]
    created_by: str


class Users:
    """People and their permissions."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = governance_stubs.GovernanceServiceStub(client.channel)

    def create(
        self, username: str, password: str, permissions: Sequence[str] = (), request_id: str | None = None
    ) -> User:
        """Create a user; without permissions, with those of an ML engineer.

        Errors: AlreadyExists `user_exists`; Invalid `weak_password`.
        """
        request = governance.CreateUserRequest(
            username=username,
            password=password,
            permissions=permissions,
            request_id=new_request_id(request_id),
        )
        return _user(self._client.call(self._stub.CreateUser, request).user)

    def list(self) -> list[User]:
        """Every user."""
        return [
            _user(u) for u in self._client.pages(self._stub.ListUsers, governance.ListUsersRequest(), "users")
        ]

    def change_password(self, current_password: str, new_password: str) -> None:
        """Change the caller's own password. Errors: Unauthenticated `invalid_credentials`; Invalid `weak_password`."""
        request = governance.ChangePasswordRequest(
            current_password=current_password, new_password=new_password
        )
        self._client.call(self._stub.ChangePassword, request)

    def who_am_i(self) -> User:
        """The caller, as its token says."""
        me = self._client.call(self._stub.WhoAmI, governance.WhoAmIRequest())
        return User(me.principal, tuple(me.permissions), "")


def _user(message: governance.User) -> User:
    return User(message.username, tuple(message.permissions), message.created_by)


@dataclass(frozen=True)
class DeadLetter:
    """A record that a service could not apply."""

    id: str
    service: str
    topic: str
    partition: int
    offset: int
    key: str
    event_type: str
    reason: str
    state: str
    died_at: datetime
    value: bytes
    headers: dict[str, str]


class DeadLetters:
    """Dead letters of one service: look, mend the cause, replay."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = dead_letter_stubs.DeadLetterServiceStub(client.channel)

    def list(self, service: str, state: str = "") -> list[DeadLetter]:
        """Newest first; `state` is dead or applied."""
        request = dead_letters.ListDeadLettersRequest(service=service, state=state)
        return [_letter(d) for d in self._client.pages(self._stub.ListDeadLetters, request, "dead_letters")]

    def get(self, service: str, id: str) -> DeadLetter:
        """Errors: NotFound `dead_letter_not_found`."""
        request = dead_letters.GetDeadLetterRequest(service=service, id=id)
        return _letter(self._client.call(self._stub.GetDeadLetter, request).dead_letter)

    def replay(self, service: str, id: str) -> str:
        """Apply it again; returns applied or superseded. Errors: Refused `already_replayed`."""
        request = dead_letters.ReplayDeadLetterRequest(service=service, id=id)
        return self._client.call(self._stub.ReplayDeadLetter, request).outcome


def _letter(d: dead_letters.DeadLetter) -> DeadLetter:
    return DeadLetter(
        d.id,
        d.service,
        d.topic,
        d.partition,
        d.offset,
        d.key,
        d.event_type,
        d.reason,
        d.state,
        d.died_at.ToDatetime(tzinfo=UTC),
        d.value,
        dict(d.headers),
    )
