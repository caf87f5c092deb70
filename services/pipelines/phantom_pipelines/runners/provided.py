"""What this machine provides to the dependency check: installed packages, and a local file of advisories.

The file is a JSON list of OSV records (or an object whose `advisories` is one, with the day of the `snapshot`): what an
export of osv.dev holds. Read of each: `id`, `summary`, `withdrawn`, and `affected` entries of ecosystem PyPI with
`versions`, and `ranges` of type ECOSYSTEM with events `introduced`, `fixed`, `last_affected`.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from datetime import date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from phantom_pipelines.runners.dependencies import Advisories, Advisory, Runtime, normalized
from phantom_platform.errors import Refused

NOT_CONFIGURED = "no file of advisories is configured (PHANTOM_PIPELINES_ADVISORIES)"


def runtime() -> Runtime:
    """This interpreter's: model servers on this machine run by the same one."""
    versions: dict[str, str] = {}
    requires: dict[str, list[str]] = {}
    for each in metadata.distributions():
        name = _plain(each.name)
        versions.setdefault(name, each.version)
        requires.setdefault(name, list(_required(each.requires or ())))
    return Runtime(platform.python_version(), versions, requires)


def _required(lines: Any) -> Iterator[str]:
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _plain(requirement.name)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def advisories(path: Path | None, now: datetime, max_age_days: int) -> Advisories:
    """`max_age_days` 0: any age. Refused `advisories_unreadable` where the file is not as it should be."""
    if path is None:
        return Advisories(unusable=NOT_CONFIGURED)
    try:
        document = json.loads(path.read_bytes())
        records = document.get("advisories") if isinstance(document, dict) else document
        snapshot = str(document.get("snapshot") or "") if isinstance(document, dict) else ""
        if not isinstance(records, list):
            raise ValueError("it is neither a list nor an object with a list `advisories`")
        entries = tuple(found for place, record in enumerate(records) for found in _entries(place, record))
        day = date.fromisoformat(snapshot[:10]) if snapshot else None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _unreadable(path, str(error)) from error
    if max_age_days and (day is None or (now.date() - day).days > max_age_days):
        age = "of no known day" if day is None else f"of {day}"
        return Advisories(
            unusable=f"{path} is {age}, and may be at most {max_age_days} days old; fetch a newer one"
        )
    return Advisories(entries, snapshot[:10])


def _unreadable(path: Path, why: str) -> Refused:
    return Refused(f"the file of advisories {path} cannot be used: {why}", code="advisories_unreadable")


def _entries(place: int, record: Any) -> Iterator[Advisory]:
    """One a package. ValueError that names the record."""
    if not isinstance(record, dict) or not record.get("id"):
        raise ValueError(f"entry {place} is no OSV record: it has no id")
    if record.get("withdrawn"):
        return
    for affected in record.get("affected") or ():
        package = affected.get("package") or {}
        if package.get("ecosystem") != "PyPI":
            continue
        try:
            ranges = tuple(
                found
                for each in affected.get("ranges") or ()
                if each.get("type") == "ECOSYSTEM"
                for found in _ranges(each.get("events") or ())
            )
            versions = frozenset(
                str(Version(each)) for each in affected.get("versions") or () if _is_one(each)
            )
        except InvalidVersion as error:
            raise ValueError(f"{record['id']}: {error}") from error
        yield Advisory(
            str(record["id"]),
            normalized(str(package.get("name") or "")),
            str(record.get("summary") or "")[:300],
            ranges,
            versions,
        )


def _is_one(text: str) -> bool:
    """Old releases have versions that no rule covers; nobody installs them by such a name today."""
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _ranges(events: Any) -> Iterator[tuple[Version | None, Version | None, Version | None]]:
    """Events come in order: each `introduced` is ended by the next `fixed` or `last_affected`, or by nothing."""
    begun: Version | None = None
    is_open = False
    for event in events:
        if "introduced" in event:
            if is_open:
                yield begun, None, None
            begun = None if event["introduced"] == "0" else Version(event["introduced"])
            is_open = True
        elif "fixed" in event and is_open:
            yield begun, Version(event["fixed"]), None
            is_open = False
        elif "last_affected" in event and is_open:
            yield begun, None, Version(event["last_affected"])
            is_open = False
    if is_open:
        yield begun, None, None
