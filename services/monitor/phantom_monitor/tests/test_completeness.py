from __future__ import annotations

import pytest

from phantom_monitor.domain.completeness import (
    Reading,
    Source,
    closed_until,
    is_complete,
    is_dropped,
    vouchers,
)

STEADY = Reading(since_s=0, last_s=1000)


def source(
    boot: str, watermark: float | None, *, joined: bool = True, left: bool = False, heard: float = 100
) -> Source:
    return Source(boot, joined, left, watermark, heard)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], False),
        ([source("a", 105)], True),
        ([source("a", 104.9)], False),
        ([source("a", 105), source("b", 101)], False),
        ([source("a", 105), source("b", None)], False),
        # Never joined, and sent nothing in it: no business of this window's.
        ([source("a", 105), source("b", 99, joined=False)], True),
        # Killed inside the window: it can never promise the rest of it.
        ([source("a", 130), source("b", 103, heard=80)], False),
        # Killed before the window, and silent for 15 s.
        ([source("a", 130), source("b", 99, heard=90)], True),
        ([source("a", 130), source("b", 99, heard=91)], False),
        # Gone with a word: nothing more will come.
        ([source("a", 103, left=True)], True),
        ([source("a", None, left=True)], False),
    ],
)
def test_a_window_is_complete_when_nobody_can_add_to_it(sources: list[Source], expected: bool) -> None:
    assert is_complete(100, sources, STEADY, now_s=105) is expected


@pytest.mark.parametrize(
    ("sources", "until", "count"),
    [
        ([], None, 0),
        ([source("a", 104.9)], 100, 1),
        ([source("a", 113), source("b", 107)], 105, 2),
        # It has joined and promised nothing yet.
        ([source("a", 113), source("b", None)], None, 1),
        # Killed: until it is dropped after 15 s nothing more is said, then its windows are left as they are.
        ([source("a", 113), source("b", 91, heard=100)], 90, 2),
        ([source("a", 113), source("b", 91, heard=98)], 110, 1),
        ([source("a", 113), source("b", 91, left=True)], 110, 1),
        ([source("a", 113, left=True)], None, 0),
        # Its clock is ahead of ours.
        ([source("a", 500)], 110, 1),
    ],
)
def test_windows_are_closed_up_to_where_every_gateway_has_passed(
    sources: list[Source], until: int | None, count: int
) -> None:
    assert closed_until(sources, STEADY, now_s=113) == until
    assert vouchers(sources, STEADY, now_s=113, until_s=until or 100) == count


def test_time_in_which_we_did_not_read_does_not_count_as_silence() -> None:
    reading = Reading(since_s=0, last_s=100)
    silent = source("a", 99, heard=100)
    assert is_dropped(silent, reading, now_s=115)
    reading.heard(120)  # a gap of 20 s: Kafka was away
    assert not is_dropped(silent, reading, now_s=134)
    assert is_dropped(silent, reading, now_s=135)


def test_reading_without_gaps_goes_on() -> None:
    reading = Reading(since_s=0, last_s=0)
    for now in range(5, 50, 5):
        reading.heard(now)
    assert reading.since_s == 0
