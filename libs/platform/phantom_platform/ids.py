"""Ids: how they are minted and what they look like.

Workspaces, models, environments and deployments have *resource ids* (they become DNS labels);
other named things (datasets, experiments, metrics, stages) have *names*; principals are a name or an
e-mail address.
"""

import re
import secrets
import time
import uuid

from phantom_platform.errors import Invalid, Violation

_RESOURCE_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


def uuid7(unix_ms: int | None = None) -> uuid.UUID:
    """A UUID of version 7 (RFC 9562): 48 bits of Unix time in milliseconds, then random ones."""
    ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    value = (ms & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return uuid.UUID(int=value)


def new_id() -> str:
    """A new UUIDv7 as text; later ones sort after earlier ones, to the millisecond."""
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
