from __future__ import annotations

import logging

from phantom_platform.telemetry.repeats import EVERY_S, Repeats


def record(name: str, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, text, None, None)


def test_the_kafka_client_says_a_thing_once_in_a_while_and_others_as_often_as_they_like() -> None:
    now = [100.0]
    repeats = Repeats(lambda: now[0])
    away = record("aiokafka", "Unable to update metadata from %s")
    assert repeats.filter(away)
    now[0] += EVERY_S - 1
    assert not repeats.filter(away)
    assert repeats.filter(record("aiokafka.consumer", "Unable to update metadata from %s"))
    assert repeats.filter(record("aiokafka", "another"))
    now[0] += 1
    assert repeats.filter(away)
    ours = record("phantom_platform.relay", "relay waits")
    assert all(repeats.filter(ours) for _ in range(3))


def test_a_coordinator_that_is_only_being_made_is_no_news() -> None:
    assert not Repeats().filter(
        record("aiokafka.consumer.group_coordinator", "Group Coordinator Request failed: %s")
    )
