"""Two people, since nobody approves their own request: who trains, and who reviews."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from phantom_ml_studio import Client, Users
from phantom_ml_studio.errors import AlreadyExists

ENGINEER, REVIEWER = "ml-engineer@example.com", "senior-ml-engineer@example.com"


@dataclass(frozen=True)
class People:
    """Clients that are logged in."""

    engineer: Client
    reviewer: Client


def make_people(data_dir: Path, address: str) -> People:
    """Create both as the administrator that `up` made, with passwords that nobody needs to know."""
    password = (data_dir / "secrets" / "admin-password").read_text().strip()
    with Client.login("admin", password, address) as admin:
        return People(*(_person(admin, name, address) for name in (ENGINEER, REVIEWER)))


def _person(admin: Client, name: str, address: str) -> Client:
    password = secrets.token_urlsafe(24)
    try:
        Users(admin).create(name, password)
    except AlreadyExists as error:
        raise SystemExit(f"{name} exists already in this data directory: {error.message}") from error
    return Client.login(name, password, address)
