"""From the compacted topic `phantom.keys.v1` into a `KeySet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from prometheus_client import CollectorRegistry

from phantom_contracts import topics
from phantom_contracts.events.governance import KeyPublished
from phantom_platform.identity.keys import KeySet, decode_public_key
from phantom_platform.kafka import Projection


def key_projection(
    keys: KeySet, bootstrap: str, snapshot: Path | None, registry: CollectorRegistry | None = None
) -> Projection[Ed25519PublicKey]:
    """A part that keeps `keys` as governance publishes them, from the snapshot while Kafka is away."""
    return Projection(
        topics.KEYS,
        bootstrap,
        parse=parse_key,
        on_changed=lambda kid, key, version: keys.put(kid, key),
        on_deleted=lambda kid, version: keys.remove(kid),
        snapshot=snapshot,
        registry=registry,
    )


def parse_key(key: str, value: bytes, headers: Mapping[str, bytes]) -> Ed25519PublicKey:
    """The public key of a record; raises on anything else, and the projection keeps the last good one."""
    return decode_public_key(KeyPublished.model_validate_json(value).public_key)
