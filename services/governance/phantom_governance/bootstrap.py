"""What has to be there before anybody can log in. Idempotent: runs at every start of the service.

The files decide: what a file in `secrets/` says becomes what the database expects, so that a crash between the
two, or a database made anew, leaves nobody locked out. An administrator who exists keeps their password.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

from phantom_contracts import topics
from phantom_contracts.events.governance import KeyPublished
from phantom_governance.domain.principals import (
    ADMINISTRATOR,
    DEFAULT_WORKSPACE,
    SERVICE_PERMISSIONS,
    Principal,
)
from phantom_governance.passwords import Passwords
from phantom_governance.secret_files import Keyring, read_or_create
from phantom_governance.service import access_changed, hash_service_key
from phantom_governance.store import PostgresPrincipals
from phantom_platform.identity.keys import encode_public_key
from phantom_platform.postgres import Transaction
from phantom_platform.telemetry import logs

log = logs.get(__name__)

ADMIN_PASSWORD_FILE = "admin-password"  # noqa: S105 - a file's name
SIGNING_KEY_FILE = "signing-key.pem"
_BY = "bootstrap"


class Bootstrap:
    """A part: after the database, before anything that answers calls."""

    name = "governance bootstrap"

    def __init__(
        self, principals: PostgresPrincipals, passwords: Passwords, keyring: Keyring, secrets_dir: Path
    ) -> None:
        self._principals = principals
        self._passwords = passwords
        self._keyring = keyring
        self._secrets_dir = secrets_dir

    async def start(self) -> None:
        await self._publish_key()
        await self._ensure_administrator()
        for service, permissions in SERVICE_PERMISSIONS.items():
            await self._ensure_service(service, permissions)

    async def stop(self) -> None:
        """Nothing runs."""

    async def _publish_key(self) -> None:
        key = self._keyring.key
        public = encode_public_key(key.private.public_key())
        async with self._principals.transaction() as tx:
            version, created_at = await self._principals.add_signing_key(tx, key.kid, public, tx.now)
            # Each time: readers ignore a version they have, and a Kafka that was made anew needs it.
            record = KeyPublished(key_id=key.kid, public_key=public, created_at=created_at, version=version)
            tx.outbox.add(topics.KEYS, key.kid, record)

    async def _ensure_administrator(self) -> None:
        if await self._principals.credential(ADMINISTRATOR, "user") is not None:
            return
        path = self._secrets_dir / ADMIN_PASSWORD_FILE
        password = read_or_create(path, lambda: secrets.token_urlsafe(18))
        secret_hash = await self._passwords.hash(password)
        async with self._principals.transaction() as tx:
            admin = _new(ADMINISTRATOR, "user", ("*",), tx)
            if not await self._principals.add(tx, admin):
                return
            await self._principals.set_secret(tx, admin.name, secret_hash, tx.now)
            tx.outbox.add(topics.ACCESS, admin.name, access_changed(admin))
        log.info("administrator created", action="administrator_created", file=str(path))

    async def _ensure_service(self, service: str, permissions: tuple[str, ...]) -> None:
        key = read_or_create(self._secrets_dir / f"{service}.key", lambda: secrets.token_urlsafe(32))
        async with self._principals.transaction() as tx:
            principal = _new(service, "service", permissions, tx)
            if await self._principals.add(tx, principal):
                tx.outbox.add(topics.ACCESS, service, access_changed(principal))
            elif (version := await self._principals.grant(tx, service, permissions)) is not None:
                tx.outbox.add(topics.ACCESS, service, access_changed(replace(principal, version=version)))
            await self._principals.set_secret(tx, service, hash_service_key(key), tx.now)


def _new(name: str, kind: str, permissions: tuple[str, ...], tx: Transaction) -> Principal:
    return Principal(name, kind, permissions, (DEFAULT_WORKSPACE,), tx.now, _BY)
