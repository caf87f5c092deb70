"""The public keys that verify tokens, fed from the compacted topic `phantom.keys.v1`."""

from __future__ import annotations

import asyncio

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from phantom_platform.errors import Invalid


def encode_public_key(key: Ed25519PublicKey) -> str:
    """The key as PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def decode_public_key(pem: str) -> Ed25519PublicKey:
    """The inverse of `encode_public_key`; `Invalid` where it is no such key."""
    try:
        key = load_pem_public_key(pem.encode("utf-8"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Invalid(f"not a public key in PEM: {error}", code="invalid_public_key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Invalid(f"not an Ed25519 key but {type(key).__name__}", code="invalid_public_key")
    return key


class KeySet:
    """Keys by id, changed by a projection while verifiers read them."""

    def __init__(self) -> None:
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, kid: str, key: Ed25519PublicKey) -> None:
        self._keys[kid] = key
        self._changed.set()

    def remove(self, kid: str) -> None:
        self._keys.pop(kid, None)

    def get(self, kid: str) -> Ed25519PublicKey | None:
        return self._keys.get(kid)

    async def wait_for(self, kid: str, timeout_s: float) -> Ed25519PublicKey | None:
        """The key, waiting a moment for one that may be on its way; None if it does not come."""
        try:
            async with asyncio.timeout(timeout_s):
                while (key := self._keys.get(kid)) is None:
                    self._changed.clear()
                    await self._changed.wait()
                return key
        except TimeoutError:
            return None
