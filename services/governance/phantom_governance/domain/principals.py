"""Who may be a principal, and which permissions one can hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from phantom_platform.errors import Invalid, Violation

MIN_PASSWORD = 8
MAX_PERMISSIONS_CHARS = 3000
"""All permissions of a principal travel in its token, and a token in 8 KiB of metadata."""

ADMINISTRATOR = "admin"
DEFAULT_WORKSPACE = "default"

OWN_PERMISSIONS = ("users:change-own-password", "users:read-self")
"""What everybody may do to themselves; never needs to be granted."""

ENGINEER_PERMISSIONS = (
    "artifacts:*",
    "datasets:*",
    "deadletters:read",
    "deployments:read",
    "environments:read",
    "models:*",
    "monitoring:read",
    "pipelines:*",
    "rollouts:*",
)
"""A user for whom nothing is said: an ML engineer."""

SERVICE_PERMISSIONS: dict[str, tuple[str, ...]] = {
    "registry": ("users:read-self",),
    "deployer": (
        "artifacts:read",
        "deployments:read",
        "models:read",
        "tokens:issue-artifact",
        "users:read-self",
    ),
    "monitor": ("deployments:read", "models:read", "monitoring:read", "users:read-self"),
    "pipelines": (
        "artifacts:read",
        "datasets:read",
        "deployments:read",
        "environments:read",
        "models:deploy",
        "models:read",
        "tokens:issue-artifact",
        "users:read-self",
    ),
    "gateway": ("deployments:read", "models:read", "users:read-self"),
    # `up`, which makes the environment of a new local stack
    "local": ("environments:read", "environments:write", "users:read-self"),
}
"""The services that have a key, and the least that each needs."""

_PERMISSION = re.compile(r"\*|[a-z][a-z-]{0,40}:(\*|[a-z][a-z-]{0,40})")


@dataclass(frozen=True)
class Principal:
    """Somebody, or a service, who can hold a token. `version` grows with every change."""

    name: str
    kind: str
    permissions: tuple[str, ...]
    workspaces: tuple[str, ...]
    created_at: datetime
    created_by: str
    version: int = 1


def user_permissions(asked: Sequence[str]) -> tuple[str, ...]:
    """The permissions of a new user: those asked for, or an engineer's, and everybody's own."""
    unknown = [text for text in asked if not _PERMISSION.fullmatch(text)]
    if unknown:
        rule = "a permission is resource:action, resource:* or *"
        raise Invalid(
            code="invalid_permission",
            violations=[
                Violation(f"permissions[{asked.index(text)}]", f"{text[:80]!r}: {rule}") for text in unknown
            ],
        )
    permissions = tuple(sorted({*(asked or ENGINEER_PERMISSIONS), *OWN_PERMISSIONS}))
    if sum(len(text) + 3 for text in permissions) > MAX_PERMISSIONS_CHARS:
        raise Invalid(
            code="too_many_permissions",
            violations=[
                Violation(
                    "permissions", f"over {MAX_PERMISSIONS_CHARS} characters in all; grant resource:* instead"
                )
            ],
        )
    return permissions


def check_password(password: str, username: str, field: str) -> None:
    """Refuse a password that would be guessed first; `Invalid` with code `weak_password`."""
    if len(password) < MIN_PASSWORD:
        reason = f"has {len(password)} characters; use at least {MIN_PASSWORD}"
    elif password.casefold() == username.casefold():
        reason = "is the username; use another one"
    elif len(set(password)) == 1:
        reason = "repeats one character; use another one"
    else:
        return
    raise Invalid(code="weak_password", violations=[Violation(field, reason)])
