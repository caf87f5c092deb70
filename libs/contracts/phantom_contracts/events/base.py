"""What every event is."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A part of an event. Unknown fields are ignored, so that a reader may be older than a writer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Event(Value):
    """A CloudEvent's data. `type` is its `ce_type`: phantom.<writer>.<NounVerbed>.v1."""

    type: ClassVar[str]
    workspace: str = "default"


class Record(Event):
    """The value of a compacted topic: the whole state of its key. The key's version travels as a header too."""

    version: int
