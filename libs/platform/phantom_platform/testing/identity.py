"""Tokens for tests: an issuer with a key of its own, and the verifier that believes it."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from phantom_platform.clock import Clock, SystemClock
from phantom_platform.identity.keys import KeySet
from phantom_platform.identity.tokens import SigningKey, TokenVerifier, sign


class Issuer:
    """`verifier` accepts what `token` makes; another issuer's tokens are unknown to it."""

    def __init__(self, clock: Clock | None = None, kid: str = "test-key") -> None:
        self.clock = clock or SystemClock()
        self.key = SigningKey(kid, Ed25519PrivateKey.generate())
        self.keys = KeySet()
        self.keys.put(kid, self.key.private.public_key())
        self.verifier = TokenVerifier(self.keys, self.clock)

    def token(
        self,
        principal: str = "ada",
        *permissions: str,
        workspaces: tuple[str, ...] = ("default",),
        life_s: float = 3600.0,
        issued_at: datetime | None = None,
        **extra: object,
    ) -> str:
        """A signed token; `*` is every permission. A negative life makes an expired one."""
        now = issued_at or self.clock.now()
        return sign(
            self.key,
            principal,
            workspaces=workspaces,
            permissions=permissions,
            issued_at=now,
            expires_at=now + timedelta(seconds=life_s),
            **extra,
        )


class FixedToken:
    """A `Tokens` for `control_channel` that always gives the same one."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token
