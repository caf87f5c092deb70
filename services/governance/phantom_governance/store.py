"""Principals, their credentials and the signing keys in Postgres. The only SQL of this service."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from phantom_governance.domain.principals import Principal
from phantom_platform.postgres import Database, Transaction

_COLUMNS = "name, kind, permissions, workspaces, created_at, created_by, version"


@dataclass(frozen=True)
class Credential:
    """A principal and the hash that proves it."""

    principal: Principal
    secret_hash: str


class PostgresPrincipals:
    """One statement a method. Methods that write take the transaction they belong to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._database.transaction()

    async def credential(self, name: str, kind: str) -> Credential | None:
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS}, secret_hash FROM principals JOIN credentials ON principal = name"  # noqa: S608
            " WHERE name = $1 AND kind = $2",
            name,
            kind,
        )
        return None if row is None else Credential(_principal(row), row["secret_hash"])

    async def find(self, tx: Transaction, name: str) -> tuple[Principal, str] | None:
        """The principal and the request id that made it."""
        row = await tx.fetchrow(f"SELECT {_COLUMNS}, request_id FROM principals WHERE name = $1", name)  # noqa: S608
        return None if row is None else (_principal(row), row["request_id"])

    async def users(self, after: str, limit: int) -> list[Principal]:
        """Users in order of name, after the given one."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM principals WHERE kind = 'user' AND name > $1 ORDER BY name LIMIT $2",  # noqa: S608
            after,
            limit,
        )
        return [_principal(row) for row in rows]

    async def add(self, tx: Transaction, principal: Principal, request_id: str = "") -> bool:
        """False where the name is taken, or the creator has used the request id before."""
        added = await tx.fetchval(
            "INSERT INTO principals (name, kind, permissions, workspaces, created_at, created_by, request_id)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING true",
            principal.name,
            principal.kind,
            list(principal.permissions),
            list(principal.workspaces),
            principal.created_at,
            principal.created_by,
            request_id,
        )
        return bool(added)

    async def grant(self, tx: Transaction, name: str, permissions: tuple[str, ...]) -> int | None:
        """Replace the permissions; the new version, or None where they are these already."""
        version: int | None = await tx.fetchval(
            "UPDATE principals SET permissions = $2, version = version + 1"
            " WHERE name = $1 AND permissions <> $2 RETURNING version",
            name,
            list(permissions),
        )
        return version

    async def set_secret(self, tx: Transaction, name: str, secret_hash: str, now: datetime) -> bool:
        """False where that is the secret already."""
        changed = await tx.fetchval(
            "INSERT INTO credentials (principal, secret_hash, changed_at) VALUES ($1, $2, $3)"
            " ON CONFLICT (principal) DO UPDATE SET secret_hash = $2, changed_at = $3"
            " WHERE credentials.secret_hash <> $2 RETURNING true",
            name,
            secret_hash,
            now,
        )
        return bool(changed)

    async def replace_secret(self, tx: Transaction, name: str, old: str, new: str, now: datetime) -> bool:
        """False where the secret is not `old` any more."""
        changed = await tx.fetchval(
            "UPDATE credentials SET secret_hash = $3, changed_at = $4"
            " WHERE principal = $1 AND secret_hash = $2 RETURNING true",
            name,
            old,
            new,
            now,
        )
        return bool(changed)

    async def add_signing_key(
        self, tx: Transaction, kid: str, public_key: str, now: datetime
    ) -> tuple[int, datetime]:
        """The version and birth of the key, new or known."""
        row = await tx.fetchrow(
            "INSERT INTO signing_keys (kid, public_key, created_at) VALUES ($1, $2, $3)"
            " ON CONFLICT (kid) DO UPDATE SET public_key = $2 RETURNING version, created_at",
            kid,
            public_key,
            now,
        )
        if row is None:
            raise LookupError(kid)
        return row["version"], row["created_at"]


def _principal(row: Mapping[str, Any]) -> Principal:
    return Principal(
        name=row["name"],
        kind=row["kind"],
        permissions=tuple(row["permissions"]),
        workspaces=tuple(row["workspaces"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        version=row["version"],
    )
