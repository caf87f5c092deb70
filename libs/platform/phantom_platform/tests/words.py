"""Events that only these tests know."""

from typing import ClassVar

from phantom_contracts.events.base import Event, Record


class Said(Event):
    type: ClassVar[str] = "phantom.test.WordSaid.v1"
    word: str


class Sung(Event):
    type: ClassVar[str] = "phantom.test.SongSung.v1"
    song: str


class Entry(Record):
    type: ClassVar[str] = "phantom.test.EntryKept.v1"
    text: str = ""
