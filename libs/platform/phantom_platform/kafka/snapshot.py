"""A projection's snapshot: one file with the records as they came and the offsets they reach to.

Written beside and renamed, fsynced before and after, so that a crash leaves the old one or the new one. A file
that cannot be read is as good as none, and is reported.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phantom_platform.telemetry import logs

log = logs.get(__name__)

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """The last good record of a key; `value` is None where the key was deleted at `version`."""

    value: bytes | None
    headers: Mapping[str, bytes]
    version: int


@dataclass
class Snapshot:
    """Records by key, the next offset by partition, and when this was known to be true (Unix seconds)."""

    records: dict[str, Stored] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    saved_at: float = 0.0


def save(path: Path, topic: str, snapshot: Snapshot) -> None:
    """Blocks until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(json.dumps(_as_json(topic, snapshot)).encode())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path, topic: str) -> Snapshot | None:
    """The snapshot, or None where there is none, or none that this code can read."""
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT or content["topic"] != topic:
            raise ValueError(f"format {content['format']!r} of topic {content['topic']!r}")
        return _from_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("snapshot ignored", action="snapshot_ignored", path=str(path), reason=repr(error))
        return None


def _as_json(topic: str, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "topic": topic,
        "saved_at": snapshot.saved_at,
        "offsets": {str(partition): offset for partition, offset in snapshot.offsets.items()},
        "records": {
            key: {
                "version": each.version,
                "value": None if each.value is None else b64encode(each.value).decode(),
                "headers": {name: b64encode(value).decode() for name, value in each.headers.items()},
            }
            for key, each in snapshot.records.items()
        },
    }


def _from_json(content: dict[str, Any]) -> Snapshot:
    records = {
        key: Stored(
            value=None if each["value"] is None else b64decode(each["value"]),
            headers={name: b64decode(value) for name, value in each["headers"].items()},
            version=int(each["version"]),
        )
        for key, each in content["records"].items()
    }
    offsets = {int(partition): int(offset) for partition, offset in content["offsets"].items()}
    return Snapshot(records, offsets, float(content["saved_at"]))
