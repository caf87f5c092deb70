"""`Labelling`: what is counted for a prediction agrees with its newest outcome, whichever came first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from phantom_contracts.outcomes import true_label
from phantom_monitor.domain.answers import Answer
from phantom_monitor.domain.counts import WindowCounts, WindowKey
from phantom_monitor.domain.labels import Predicted, relabel
from phantom_monitor.shadowing import Shadowing
from phantom_monitor.store import PostgresPredictions, PostgresWindows
from phantom_monitor.values import Reported, Routes, StoredOutcome, unix_us
from phantom_platform.postgres import Transaction

# A label that comes later than this after maturity no longer changes a window.
LATE_US = 24 * 3600 * 1_000_000


class Labelling:
    """Joins outcomes with predictions. Level-triggered: resolving ids again changes nothing."""

    def __init__(
        self,
        predictions: PostgresPredictions,
        windows: PostgresWindows,
        shadowing: Shadowing,
        routes: Routes,
    ) -> None:
        self._predictions = predictions
        self._windows = windows
        self._shadowing = shadowing
        self._routes = routes

    async def answered(self, tx: Transaction, answers: Sequence[Answer]) -> None:
        """Outcomes may have come before their predictions."""
        groups: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        for answer in answers:
            groups[answer.workspace, answer.endpoint].append(answer)
        for (workspace, endpoint), group in sorted(groups.items()):
            requests = [a.request_id for a in group if a.request_id]
            predictions = [str(UUID(bytes=a.prediction_id)) for a in group]
            found = await self._predictions.with_outcomes(tx, workspace, endpoint, requests, predictions)
            if any(found):
                await self.resolve(tx, workspace, endpoint, *found)

    async def reported(self, tx: Transaction, outcomes: Sequence[Reported]) -> None:
        """Keep the newest outcome of each id, and count the labels of predictions that are here."""
        await self._predictions.report(tx, outcomes)
        groups: dict[tuple[str, str], list[Reported]] = defaultdict(list)
        for outcome in outcomes:
            groups[outcome.workspace, outcome.endpoint].append(outcome)
        for (workspace, endpoint), group in sorted(groups.items()):
            requests = sorted({o.id for o in group if o.kind == "request"})
            predictions = sorted({o.id for o in group if o.kind == "prediction"})
            await self.resolve(tx, workspace, endpoint, requests, predictions)

    async def matured(self, tx: Transaction, now: datetime, limit: int) -> int:
        """Resolve waiting outcomes whose predictions are here and have matured; returns how many joined.

        One that waits for the first answer of its request id is due as soon as a later answer has matured.
        """
        due = await self._predictions.due(tx, unix_us(now), limit)
        groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(
            lambda: {"request": [], "prediction": []}
        )
        for row in due:
            groups[row["workspace"], row["endpoint"]][row["kind"]].append(row["id"])
        return sum(
            [
                await self.resolve(tx, workspace, endpoint, ids["request"], ids["prediction"])
                for (workspace, endpoint), ids in sorted(groups.items())
            ]
        )

    async def resolve(
        self,
        tx: Transaction,
        workspace: str,
        endpoint: str,
        requests: Sequence[str],
        predictions: Sequence[str],
    ) -> int:
        """Make what is counted for these ids agree with their newest outcomes; returns how many rows have one."""
        changes: dict[WindowKey, WindowCounts] = {}
        counted: list[tuple[str, str, str, int, str | None]] = []
        joined: dict[str, list[tuple[str, int]]] = {"request": [], "prediction": []}
        now_us = unix_us(tx.now)
        for row, outcome, matures_us in await self._predictions.lock_matching(
            tx, workspace, endpoint, requests, predictions
        ):
            if now_us < matures_us:
                continue
            if outcome is not None:
                id = row.prediction_id if outcome.kind == "prediction" else row.request_id
                joined[outcome.kind].append((id, row.row))
            label = self._label(row, outcome)
            change = relabel(row, label) if now_us <= matures_us + LATE_US else None
            if change is not None:
                changes.setdefault(row.window, WindowCounts()).merge(change)
                counted.append((workspace, endpoint, row.prediction_id, row.row, label))
        for kind, keys in joined.items():
            if keys:
                await self._predictions.join_outcomes(tx, workspace, endpoint, kind, keys)
        if changes:
            await self._predictions.set_counted(tx, counted)
            for key, change in (await self._shadowing.relabelled(tx, counted)).items():
                changes.setdefault(key, WindowCounts()).merge(change)
            await self._windows.add(tx, changes)
        return sum(map(len, joined.values()))

    def _label(self, row: Predicted, outcome: StoredOutcome | None) -> str | None:
        if outcome is None:
            return None
        schema = self._routes.schema(row.window.workspace, row.window.revision)
        reported = outcome.label
        if reported is None and schema is not None and schema.outcome is not None:
            # An application may send the field that the schema names, as it calls it.
            reported = outcome.fields.get(schema.outcome.field)
        return true_label(reported, schema, row.class_labels)
