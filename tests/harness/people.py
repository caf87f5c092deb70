"""Who uses the stack: the administrator, an ML engineer and a reviewer."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass

from harness.stack import Stack
from phantom_ml_studio import Client, Users
from phantom_ml_studio.errors import AlreadyExists

# The guide's reviewer.
REVIEWER = "senior-ml-engineer@company.com"


@dataclass(frozen=True)
class Person:
    """Somebody who is logged in."""

    name: str
    password: str
    client: Client


@dataclass(frozen=True)
class People:
    """Everybody."""

    admin: Person
    engineer: Person
    reviewer: Person

    def close(self) -> None:
        """Close their connections."""
        for person in (self.admin, self.engineer, self.reviewer):
            person.client.close()


def make_people(stack: Stack) -> People:
    """The administrator that `up` made, and two users that it creates."""
    admin = log_in(stack, "admin", stack.admin_password)
    return People(
        admin, new_person(stack, admin, f"engineer-{secrets.token_hex(3)}"), _reviewer(stack, admin)
    )


def new_person(stack: Stack, admin: Person, name: str, permissions: tuple[str, ...] = ()) -> Person:
    """A new user; without permissions, with an engineer's."""
    password = secrets.token_urlsafe(12)
    Users(admin.client).create(name, password, permissions)
    return log_in(stack, name, password)


def log_in(stack: Stack, name: str, password: str) -> Person:
    """Somebody who exists."""
    return Person(name, password, Client.login(name, password, stack.control))


def _reviewer(stack: Stack, admin: Person) -> Person:
    # The guide names the reviewer, so a stack that runs on (PHANTOM_TEST_STACK) knows them already.
    password = "the-reviewer-of-the-guide"
    with suppress(AlreadyExists):
        Users(admin.client).create(REVIEWER, password)
    return log_in(stack, REVIEWER, password)
