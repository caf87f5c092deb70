"""Ed25519 JSON web tokens: signed by governance, verified locally by everybody else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeGuard

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from phantom_platform.clock import Clock
from phantom_platform.errors import Unauthenticated
from phantom_platform.identity.keys import KeySet

ISSUER = "phantom"
ALGORITHM = "EdDSA"
MAX_TOKEN_BYTES = 7 * 1024
"""All metadata of a call together is 8 KiB by default; a token has to leave room for the rest."""

UNKNOWN_KEY_WAIT_S = 2.0
"""How long a token signed by a key that we have not seen yet may wait for it: a key is announced through
Kafka, so the first token signed with it can arrive a moment earlier."""

_CACHE_SIZE = 1024
_PARTS = {
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "require": ["exp", "iat", "sub", "iss"],
}


@dataclass(frozen=True)
class Identity:
    """What a valid token says. `claims` has everything, such as the digests of an artifact token."""

    principal: str
    workspaces: tuple[str, ...]
    permissions: frozenset[str]
    expires_at: int
    claims: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class SigningKey:
    """A private key and the id under which its public half is known."""

    kid: str
    private: Ed25519PrivateKey


def sign(
    key: SigningKey,
    principal: str,
    *,
    workspaces: Sequence[str],
    permissions: Sequence[str],
    issued_at: datetime,
    expires_at: datetime,
    **extra: object,
) -> str:
    """A compact JWT. `extra` claims are added as they are."""
    claims = {
        "iss": ISSUER,
        "sub": principal,
        "workspaces": list(workspaces),
        "permissions": list(permissions),
        "iat": int(issued_at.timestamp()),
        "exp": int(expires_at.timestamp()),
        **extra,
    }
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid})


class TokenVerifier:
    """Checks tokens against a key set; raises `Unauthenticated` saying what is wrong with one.

    A verified token is remembered, so that a busy caller costs one signature check, not one a call; its expiry
    and the presence of its key are checked every time.
    """

    def __init__(self, keys: KeySet, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._seen: OrderedDict[str, tuple[str, Identity]] = OrderedDict()

    async def verify(self, token: str) -> Identity:
        """The identity that the token proves."""
        known = self._seen.get(token)
        if known is not None and self._keys.get(known[0]) is not None:
            return self._unexpired(known[1])
        kid = _key_id(token)
        key = self._keys.get(kid) or await self._keys.wait_for(kid, UNKNOWN_KEY_WAIT_S)
        if key is None:
            raise Unauthenticated(
                f"the token is signed with a key that is not known here ({kid}); log in again",
                code="token_unknown_key",
            )
        try:
            claims = jwt.decode(token, key, algorithms=[ALGORITHM], issuer=ISSUER, options=_PARTS)  # type: ignore[arg-type]
        except jwt.InvalidSignatureError as error:
            raise Unauthenticated(
                "the token's signature does not match: it is forged or damaged; log in again",
                code="token_forged",
            ) from error
        except jwt.InvalidTokenError as error:
            raise _malformed(str(error)) from error
        identity = self._unexpired(_identity(claims))
        self._remember(token, kid, identity)
        return identity

    def _unexpired(self, identity: Identity) -> Identity:
        late = self._clock.now().timestamp() - identity.expires_at
        if late >= 0:
            raise Unauthenticated(
                f"the token of {identity.principal} expired {int(late)} s ago; log in again",
                code="token_expired",
            )
        return identity

    def _remember(self, token: str, kid: str, identity: Identity) -> None:
        self._seen[token] = (kid, identity)
        while len(self._seen) > _CACHE_SIZE:
            self._seen.popitem(last=False)


def _key_id(token: str) -> str:
    if len(token) > MAX_TOKEN_BYTES:
        raise _malformed(f"it is longer than {MAX_TOKEN_BYTES} bytes")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError as error:
        raise _malformed(str(error)) from error
    kid = header.get("kid")
    if header.get("alg") != ALGORITHM or not isinstance(kid, str):
        raise _malformed(f"it is not signed with {ALGORITHM} by a named key")
    return kid


def _identity(claims: Mapping[str, Any]) -> Identity:
    principal, workspaces, permissions = claims["sub"], claims.get("workspaces"), claims.get("permissions")
    if not (isinstance(principal, str) and _is_texts(workspaces) and _is_texts(permissions)):
        raise _malformed("its claims are not of the right types")
    try:
        expires_at = int(claims["exp"])
    except (TypeError, ValueError) as error:
        raise _malformed("its expiry is not a number") from error
    return Identity(principal, tuple(workspaces), frozenset(permissions), expires_at, dict(claims))


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _malformed(why: str) -> Unauthenticated:
    return Unauthenticated(f"the token cannot be read: {why}; log in again", code="token_malformed")
