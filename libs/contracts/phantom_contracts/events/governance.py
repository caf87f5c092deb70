"""What governance writes: keys and access, both compacted."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AwareDatetime

from phantom_contracts.events.base import Record


class KeyPublished(Record):
    """A public key that verifies our tokens: phantom.keys.v1, key = key id."""

    type: ClassVar[str] = "phantom.governance.KeyPublished.v1"
    key_id: str
    # JWS algorithm, and the key as PEM (SubjectPublicKeyInfo).
    algorithm: str = "EdDSA"
    public_key: str
    created_at: AwareDatetime


class AccessChanged(Record):
    """What a principal may do: phantom.access.v1, key = principal."""

    type: ClassVar[str] = "phantom.governance.AccessChanged.v1"
    principal: str
    workspaces: tuple[str, ...] = ("default",)
    permissions: tuple[str, ...] = ()
