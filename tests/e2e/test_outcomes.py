"""What is predicted and what became of it: joined, counted once, published in windows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness import models, oip
from harness.kafka import headers_of, upstream, wait_for
from harness.waiting import eventually
from phantom_contracts import topics
from phantom_contracts.events.monitor import WindowPublished
from phantom_contracts.events.upstream import OutcomeReported

if TYPE_CHECKING:
    from conftest import Studio
    from harness.stack import Stack


async def test_outcomes_are_joined_counted_once_and_published_in_windows(
    stack: Stack, studio: Studio, door: oip.Door, run_id: str
) -> None:
    made = studio.serve(f"outcomes-{run_id}", models.xgboost_file(studio.file("outcomes.json")))
    amounts = [n / 40 for n in range(40)]
    ids = [f"o-{run_id}-{n}" for n in range(len(amounts))]
    answered = {}
    for id, amount in zip(ids, amounts, strict=True):
        reply = door.infer(oip.request(made.id, {"amount": [amount], "hour": [0.5]}, id=id, user_id=id))
        answered[id] = reply.headers["phantom-prediction-id"]
    # Named by the application's id, by our prediction id, by the alias, twice; one that nobody predicted.
    async with upstream(stack.kafka) as other:
        for n, (id, amount) in enumerate(zip(ids, amounts, strict=True)):
            named = {"prediction_id": answered[id]} if n % 4 == 0 else {"request_id": id}
            outcome = OutcomeReported(
                endpoint=made.model_id if n % 3 == 0 else made.id,
                event_time=datetime.now(UTC),
                fields={"was_high": amount > 0.5},
                **named,
            )
            for _ in range(2):
                await other.publish(topics.OUTCOMES, outcome.key, outcome)
        stray = OutcomeReported(
            endpoint=made.id, request_id=f"stray-{run_id}", event_time=datetime.now(UTC), label=1
        )
        await other.publish(topics.OUTCOMES, stray.key, stray)

    counts = eventually(
        lambda: (found := studio.monitoring.counts(made.id))["outcomes_joined"] >= 40 and found, "all joins"
    )
    assert counts["answered_calls"] == counts["answered_rows"] == 40
    assert counts["outcomes_joined"] == 40
    assert counts["outcomes_waiting"] == 1
    assert counts["failed_calls"] == counts["duplicates"] == 0

    def figures() -> dict[str, float] | None:
        rows = [s for s in studio.monitoring.summary(made.id) if s.labelled == 40]
        return {"accuracy": rows[0].accuracy, "lower": rows[0].accuracy_lower} if rows else None

    quality = eventually(figures, "the quality of all 40")
    assert quality["accuracy"] > 0.9
    assert 0.6 < quality["lower"] < quality["accuracy"]

    def is_whole(records: list[object]) -> bool:
        newest = newest_windows(records, made.id)
        return sum(w.requests for w in newest) == 40 and labelled(newest) == 40

    windows = newest_windows(await wait_for(stack.kafka, topics.WINDOWS, is_whole), made.id)
    assert {(w.revision, w.arm, w.decision) for w in windows} == {(f"{made.id}.1", "control", "rollout")}
    assert all(w.start.timestamp() % 5 == 0 and w.length_s == 5 for w in windows)
    assert sum(w.answered for w in windows) == 40
    studio.deployments.delete(made.id)


def newest_windows(records: list[object], endpoint: str) -> list[WindowPublished]:
    """The highest revision_no of each window of an endpoint."""
    newest: dict[tuple[object, ...], WindowPublished] = {}
    for record in records:
        if headers_of(record)["ce_type"] != WindowPublished.type:
            continue
        window = WindowPublished.model_validate(json.loads(record.value))  # type: ignore[attr-defined]
        if window.endpoint != endpoint:
            continue
        key = (window.start, window.revision, window.arm, window.decision, window.route_version)
        if key not in newest or window.revision_no > newest[key].revision_no:
            newest[key] = window
    return list(newest.values())


def labelled(windows: list[WindowPublished]) -> int:
    return sum(sum(sum(q.confusion.values()) for q in w.quality.values()) for w in windows)
