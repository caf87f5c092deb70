"""Stages, and which moves between them are allowed."""

from __future__ import annotations

from enum import StrEnum

from phantom_platform.errors import Conflict, Forbidden, Invalid, Refused, Violation


class Stage(StrEnum):
    """Where a version stands."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


def check_move(current: Stage, expected: Stage | None, target: Stage) -> None:
    """Raise unless a version in `current` may move to `target`.

    `expected` is the caller's view of the current stage (None: whatever it is): `Conflict` `stale_stage` where it
    is another one. `Refused` `already_in_stage` and `archived`.
    """
    if expected is not None and expected != current:
        raise Conflict(
            f"the version is in {current}, not in {expected}; look at it again before promoting it",
            code="stale_stage",
            stage=current.value,
            from_stage=expected.value,
        )
    if current == target:
        raise Refused(f"the version is in {current} already", code="already_in_stage", stage=current.value)
    if current == Stage.ARCHIVED and target == Stage.PRODUCTION:
        raise Refused(
            "an archived version cannot go to production; promote it to staging or development first",
            code="archived",
        )


def initial_stage(asked: Stage | None, may_promote: bool) -> Stage:
    """The stage of a new version. Production at once needs the permission to promote; nothing is born archived."""
    if asked is None:
        return Stage.DEVELOPMENT
    if asked == Stage.ARCHIVED:
        raise Invalid(
            code="born_archived",
            violations=[Violation("version.stage", "a new version cannot be archived; leave the stage out")],
        )
    if asked == Stage.PRODUCTION and not may_promote:
        raise Forbidden(
            "a version starts in production only for callers with the permission models:promote; "
            "register it in staging, and promote it",
            code="permission_missing",
            permission="models:promote",
        )
    return asked
