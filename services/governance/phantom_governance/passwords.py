"""argon2id, off the event loop and a few at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from phantom_platform.errors import Exhausted

T = TypeVar("T")

AT_ONCE = 2
MAX_WAITING = 64
"""A hash takes tens of milliseconds and 64 MiB by intention: a flood of logins must not take the machine."""


class Passwords:
    """Hashes and checks. Checking against nobody's hash takes as long as checking against somebody's."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """The encoded hash, salt and parameters included."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, stored: str | None, password: str) -> bool:
        """Whether it is the password; False for `stored=None`, as late as for a wrong one."""
        if self._nobody is None:
            self._nobody = await self.hash(secrets.token_hex(16))
        is_right = await self._run(self._verify, stored or self._nobody, password)
        return is_right and stored is not None

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[..., T], *args: str) -> T:
        if self._waiting >= MAX_WAITING:
            raise Exhausted("too many logins at once; try again in a few seconds", code="too_many_logins")
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work, *args)
        finally:
            self._waiting -= 1
