"""Garbage in a topic: kept beside it, seen and replayed with the command line; what follows is applied."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness import oip
from harness.kafka import upstream
from harness.waiting import eventually
from phantom_contracts import topics
from phantom_contracts.events.upstream import OutcomeReported

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Studio
    from harness.people import People
    from harness.stack import Stack
    from phantom_ml_studio.values import Deployment

from harness.cli import Shell


async def test_a_garbage_outcome_is_listed_shown_and_replayed_in_vain_and_the_next_one_is_joined(
    stack: Stack,
    people: People,
    studio: Studio,
    door: oip.Door,
    mixed: Deployment,
    run_id: str,
    tmp_path: Path,
) -> None:
    shell = Shell(stack, tmp_path).log_in(people.admin)
    garbage = f"\xff garbage {run_id}".encode("latin-1")
    key = f"garbage-{run_id}"
    before = studio.monitoring.counts(mixed.id)["outcomes_joined"]
    door.infer(oip.request(mixed.id, {"amount": [0.9]}, id=key))
    outcome = OutcomeReported(endpoint=mixed.id, request_id=key, event_time=datetime.now(UTC), label="high")
    async with upstream(stack.kafka) as other:
        # The same key: the same partition, behind the garbage.
        await other.publish_bytes(topics.OUTCOMES, key.encode(), garbage)
        await other.publish(topics.OUTCOMES, key, outcome)
    eventually(lambda: studio.monitoring.counts(mixed.id)["outcomes_joined"] > before, "the join")

    listed = shell.run("dlq", "list", "--service", "monitor", "--state", "dead", "-o", "json").json
    (letter,) = [each for each in listed if each["key"] == key]
    assert letter["topic"] == topics.OUTCOMES.name
    assert "no outcome" in letter["reason"] or "header" in letter["reason"]

    shown = shell.run("dlq", "show", letter["id"], "--service", "monitor", "--output", "json").json
    assert shown["state"] == "dead"
    import base64

    assert base64.b64decode(shown["value"]) == garbage
    table = shell.run("dlq", "show", letter["id"], "--service", "monitor")
    assert table.code == 0
    assert letter["id"] in table.out

    replayed = shell.run("dlq", "replay", letter["id"], "--service", "monitor")
    assert replayed.code == 1, replayed
    assert "undecodable" in replayed.err
    again = shell.run("dlq", "show", letter["id"], "--service", "monitor", "--output", "json").json
    assert again["state"] == "dead"

    unknown = shell.run("dlq", "list", "--service", "nobody")
    assert unknown.code == 1
    assert "service_not_found" in unknown.err
    # An engineer may look, and not replay.
    engineer = Shell(stack, tmp_path).log_in(people.engineer)
    refused = engineer.run("dlq", "replay", letter["id"], "--service", "monitor")
    assert refused.code == 4
    assert "deadletters:replay" in refused.err
