"""Logging in, users, and tokens: the use cases."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from phantom_contracts import topics
from phantom_contracts.events.governance import AccessChanged
from phantom_governance.domain.principals import (
    DEFAULT_WORKSPACE,
    Principal,
    check_password,
    user_permissions,
)
from phantom_governance.domain.throttle import Throttle
from phantom_governance.metrics import GovernanceMetrics
from phantom_platform import audit, ids
from phantom_platform.clock import Clock
from phantom_platform.errors import AlreadyExists, Conflict, Exhausted, Refused, Unauthenticated
from phantom_platform.identity.tokens import SigningKey, sign
from phantom_platform.postgres import Transaction
from phantom_platform.rpc.context import Caller
from phantom_platform.telemetry import logs

log = logs.get(__name__)


class Credential(Protocol):
    @property
    def principal(self) -> Principal: ...
    @property
    def secret_hash(self) -> str: ...


class Principals(Protocol):
    """The store, as far as the use cases need it."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...
    async def credential(self, name: str, kind: str) -> Credential | None: ...
    async def find(self, tx: Transaction, name: str) -> tuple[Principal, str] | None: ...
    async def users(self, after: str, limit: int) -> list[Principal]: ...
    async def add(self, tx: Transaction, principal: Principal, request_id: str = "") -> bool: ...
    async def set_secret(self, tx: Transaction, name: str, secret_hash: str, now: datetime) -> bool: ...
    async def replace_secret(self, tx: Transaction, name: str, old: str, new: str, now: datetime) -> bool: ...


class Hasher(Protocol):
    async def hash(self, password: str) -> str: ...
    async def matches(self, stored: str | None, password: str) -> bool: ...


class Keys(Protocol):
    @property
    def key(self) -> SigningKey: ...


@dataclass(frozen=True)
class IssuedToken:
    """A signed token, and what it says."""

    value: str
    principal: str
    workspaces: tuple[str, ...]
    permissions: tuple[str, ...]
    expires_at: datetime


@dataclass(frozen=True)
class NewUser:
    """Empty permissions: an ML engineer's. `request_id` makes a repeat of the same call harmless."""

    username: str
    password: str
    permissions: tuple[str, ...] = ()
    request_id: str = ""


@dataclass(frozen=True)
class Policy:
    """Seconds a token holds, and the wrong secrets a name may see in a minute."""

    token_life_s: int = 3600
    failures_per_minute: int = 5


def hash_service_key(key: str) -> str:
    """Plain SHA-256 is enough for 256 random bits, and quick."""
    return hashlib.sha256(key.encode()).hexdigest()


def access_changed(principal: Principal) -> AccessChanged:
    """The record of `phantom.access.v1`."""
    return AccessChanged(
        principal=principal.name,
        workspaces=principal.workspaces,
        permissions=principal.permissions,
        version=principal.version,
    )


class Governance:
    """Answers nothing that tells a wrong name from a wrong password, in words or in time."""

    def __init__(
        self,
        principals: Principals,
        passwords: Hasher,
        keys: Keys,
        clock: Clock,
        policy: Policy,
        metrics: GovernanceMetrics,
    ) -> None:
        self._principals = principals
        self._passwords = passwords
        self._keys = keys
        self._clock = clock
        self._policy = policy
        self._metrics = metrics
        self._throttle = Throttle(policy.failures_per_minute)

    async def login(self, username: str, password: str) -> IssuedToken:
        """A token for a user. `Unauthenticated` for a wrong name or password, `Exhausted` after too many."""
        credential = await self._prove_user(username, password)
        return self._issue(credential.principal)

    async def issue_service_token(self, service: str, key: str) -> IssuedToken:
        """A token for a service, by the key in its file."""
        self._attempt("service", service)
        credential = await self._principals.credential(service, "service")
        stored = credential.secret_hash if credential else ""
        if not hmac.compare_digest(stored, hash_service_key(key)) or credential is None:
            self._wrong("service", service)
            raise Unauthenticated(
                f"the key is not that of service {service}; read it from secrets/{service}.key of the data directory",
                code="invalid_credentials",
            )
        self._succeed("service", service)
        return self._issue(credential.principal)

    async def create_user(self, caller: Caller, new: NewUser) -> Principal:
        """A user with these permissions, none of which the creator may lack."""
        ids.check_principal(new.username, "username")
        check_password(new.password, new.username, "password")
        permissions = user_permissions(new.permissions)
        for permission in permissions:
            if not permission.startswith("users:") or permission in new.permissions:
                caller.require(permission)
        secret_hash = await self._passwords.hash(new.password)
        audit.resource(f"users/{new.username}")
        async with self._principals.transaction() as tx:
            user = Principal(
                new.username, "user", permissions, (DEFAULT_WORKSPACE,), tx.now, caller.principal
            )
            if not await self._principals.add(tx, user, new.request_id):
                tx.mark_mutation()
                return await self._repeated(tx, user, new.request_id)
            await self._principals.set_secret(tx, user.name, secret_hash, tx.now)
            tx.outbox.add(topics.ACCESS, user.name, access_changed(user))
        return user

    async def list_users(self, after: str, limit: int) -> list[Principal]:
        """At most `limit` users in order of name, those after the given name."""
        return await self._principals.users(after, limit)

    async def change_password(self, caller: Caller, current: str, new: str) -> None:
        """The caller's own password; needs the current one, under the same limit as a login."""
        check_password(new, caller.principal, "new_password")
        credential = await self._prove_user(caller.principal, current)
        secret_hash = await self._passwords.hash(new)
        audit.resource(f"users/{caller.principal}")
        async with self._principals.transaction() as tx:
            tx.mark_mutation()
            old = credential.secret_hash
            if not await self._principals.replace_secret(tx, caller.principal, old, secret_hash, tx.now):
                raise Conflict(
                    "the password was changed by another call in the meantime", code="password_changed"
                )

    async def issue_artifact_token(self, caller: Caller, subject: str, digests: Sequence[str]) -> IssuedToken:
        """A token that reads these artifacts and nothing else: the registry checks its claim `artifacts`."""
        ids.check_name(subject, "subject")
        audit.resource(f"artifact-tokens/{subject}")
        async with self._principals.transaction() as tx:
            tx.mark_mutation()
            bearer = Principal(
                subject, "replica", ("artifacts:read",), (caller.workspace,), tx.now, caller.principal
            )
            return self._issue(bearer, artifacts=sorted(set(digests)))

    async def _prove_user(self, username: str, password: str) -> Credential:
        self._attempt("user", username)
        credential = await self._principals.credential(username, "user")
        is_right = await self._passwords.matches(credential.secret_hash if credential else None, password)
        if credential is None or not is_right:
            self._wrong("user", username)
            raise Unauthenticated("the username or the password is wrong", code="invalid_credentials")
        self._succeed("user", username)
        return credential

    def _attempt(self, kind: str, name: str) -> None:
        """Counts as a failure until it has succeeded: attempts made at the same time cannot pass unseen."""
        now, key = self._clock.monotonic(), f"{kind}/{name}"
        wait_s = self._throttle.blocked_for_s(key, now)
        if wait_s > 0:
            self._metrics.logins.labels(kind, "blocked").inc()
            raise Exhausted(
                f"too many wrong attempts for {name}; try again in {wait_s:.0f} s",
                code="too_many_attempts",
                retry_after_s=round(wait_s, 1),
            )
        self._throttle.failed(key, now)

    def _succeed(self, kind: str, name: str) -> None:
        self._throttle.succeeded(f"{kind}/{name}")
        self._metrics.logins.labels(kind, "ok").inc()

    def _wrong(self, kind: str, name: str) -> None:
        self._metrics.logins.labels(kind, "wrong").inc()
        log.warning("login refused", action="login_refused", kind=kind, principal=name)

    async def _repeated(self, tx: Transaction, user: Principal, request_id: str) -> Principal:
        found = await self._principals.find(tx, user.name)
        if found is None:
            raise Refused(
                f"request id {request_id} has created another user already; use a new one",
                code="request_id_reused",
            )
        existing, made_by = found
        if request_id and made_by == request_id and existing.created_by == user.created_by:
            return existing
        raise AlreadyExists(f"there is a user or service named {user.name} already", code="user_exists")

    def _issue(self, principal: Principal, **extra: object) -> IssuedToken:
        now = self._clock.now().replace(microsecond=0)
        expires_at = now + timedelta(seconds=self._policy.token_life_s)
        value = sign(
            self._keys.key,
            principal.name,
            workspaces=principal.workspaces,
            permissions=principal.permissions,
            issued_at=now,
            expires_at=expires_at,
            **extra,
        )
        return IssuedToken(value, principal.name, principal.workspaces, principal.permissions, expires_at)
