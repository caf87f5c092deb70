"""Prediction ids: UUIDv7 as 16 bytes, from a pool of random bytes, so that one costs no system call."""

from __future__ import annotations

import os
from collections.abc import Callable

_POOL_BYTES = 8192
_RANDOM_BYTES = 10


class IdMint:
    """Makes ids. Not for threads."""

    __slots__ = ("_at", "_entropy", "_pool")

    def __init__(self, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._entropy = entropy
        self._pool = b""
        self._at = 0

    def __call__(self, unix_ms: int) -> bytes:
        """A new id of that time."""
        at = self._at
        if at + _RANDOM_BYTES > len(self._pool):
            self._pool, at = self._entropy(_POOL_BYTES), 0
        self._at = at + _RANDOM_BYTES
        tail = int.from_bytes(self._pool[at : self._at], "big")
        value = (unix_ms & (1 << 48) - 1) << 80 | tail
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        return value.to_bytes(16, "big")
