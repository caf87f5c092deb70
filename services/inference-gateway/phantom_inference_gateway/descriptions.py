"""What OIP metadata says of this server and of an endpoint, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_contracts.tensors import Tensor

HASH_FIELD = "hash_field"
"""The metadata's parameter that tells clients under which name an endpoint wants its unit."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """An endpoint as an OIP model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    # The request parameter (or metadata `x-<name>`) that carries the unit.
    hash_field: str


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """This server as OIP describes one."""

    name: str
    version: str
    extensions: tuple[str, ...]
