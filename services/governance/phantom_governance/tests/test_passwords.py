"""argon2id: as slow for nobody as for somebody, and never more than a few at once."""

import asyncio
import threading

import pytest
from argon2 import PasswordHasher

from phantom_governance.passwords import AT_ONCE, MAX_WAITING, Passwords
from phantom_governance.tests.stack import CHEAP
from phantom_platform.errors import Exhausted


class Counting(PasswordHasher):
    """Counts what is computed, and how much of it at the same time; waits while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()

    def verify(self, hash, password):
        with self._lock:
            self.verified += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            self.gate.wait(20)
            return super().verify(hash, password)
        finally:
            with self._lock:
                self._now -= 1


async def test_only_the_password_matches():
    passwords = Passwords(CHEAP)
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert await passwords.matches(stored, "correct horse")
    assert not await passwords.matches(stored, "wrong horse")
    assert not await passwords.matches("not a hash", "correct horse")
    assert stored != await passwords.hash("correct horse")


async def test_an_unknown_user_costs_the_same_work_as_a_known_one():
    hasher = Counting()
    passwords = Passwords(hasher)
    stored = await passwords.hash("correct horse")
    assert not await passwords.matches(stored, "wrong")
    known = hasher.verified
    assert not await passwords.matches(None, "wrong")
    assert hasher.verified - known == known == 1


async def test_a_flood_of_logins_is_bounded_and_then_refused():
    hasher = Counting()
    passwords = Passwords(hasher)
    stored = await passwords.hash("correct horse")
    await passwords.matches(stored, "warm up")
    hasher.gate.clear()
    flood = [asyncio.create_task(passwords.matches(stored, "guess")) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as refused:
        await passwords.matches(stored, "one too many")
    hasher.gate.set()
    assert await asyncio.gather(*flood) == [False] * MAX_WAITING
    assert refused.value.code == "too_many_logins"
    assert hasher.most_at_once == AT_ONCE
