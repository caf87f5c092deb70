"""Ids: how they are minted and what they look like.

Workspaces, models, environments and deployments have *resource ids* (they become DNS labels);
other named things (datasets, experiments, metrics, stages) have *names*; principals are a name or an
e-mail address.
"""

import re
import secrets
import threading
import time
import uuid

from phantom_platform.errors import Invalid, Violation

_RESOURCE_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


class _Mint:
    """The newest of this process's ids, as time and random bits. For any number of threads."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """Time and random bits, above all before, also within a millisecond and when the clock goes back."""
        fresh = time.time_ns() // 1_000_000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            if fresh <= self._last:
                fresh = self._last + 1 + secrets.randbits(32)
            self._last = fresh
        return fresh


_RANDOM_BITS = 74
_mint = _Mint()


def uuid7(unix_ms: int | None = None) -> uuid.UUID:
    """A UUID of version 7 (RFC 9562): 48 bits of Unix time in milliseconds, then random ones.

    Without a time given, one made later in this process sorts after all before.
    """
    bits = _mint.next() if unix_ms is None else unix_ms << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    upper, lower = bits >> 62 & (1 << 60) - 1, bits & (1 << 62) - 1
    version, variant = 0x7 << 76, 0x2 << 62
    return uuid.UUID(int=upper >> 12 << 80 | version | (upper & 0xFFF) << 64 | variant | lower)


def new_id() -> str:
    """A new UUIDv7 as text; of one process, later ones sort after earlier ones."""
    return str(uuid7())


def check_resource_id(value: str, field: str) -> str:
    """`value`, if it may be the id of a workspace, model, environment or deployment; else `Invalid`."""
    rule = "1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"
    return _check(_RESOURCE_ID, value, field, "invalid_id", rule)


def check_name(value: str, field: str) -> str:
    """`value`, if it may name a dataset, experiment, metric, stage and so on; else `Invalid`."""
    rule = "1 to 128 of letters, digits, '.', '_' and '-', starting with a letter or digit"
    return _check(_NAME, value, field, "invalid_name", rule)


def check_principal(value: str, field: str) -> str:
    """`value`, if it is a name or an e-mail address; else `Invalid`."""
    if _EMAIL.fullmatch(value):
        return value
    rule = "an e-mail address, or 1 to 128 of letters, digits, '.', '_' and '-'"
    return _check(_NAME, value, field, "invalid_principal", rule)


def _check(pattern: re.Pattern[str], value: str, field: str, code: str, rule: str) -> str:
    if pattern.fullmatch(value):
        return value
    shown = value if len(value) <= 140 else f"{value[:140]}…"
    raise Invalid(code=code, violations=[Violation(field, f"{shown!r} is not allowed; use {rule}")])
