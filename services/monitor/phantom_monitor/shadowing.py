"""`Shadowing`: a shadow revision's rows are compared with the answers, and labelled as these are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from phantom_contracts.outcomes import true_label
from phantom_monitor.domain.answers import OK, Answer
from phantom_monitor.domain.counts import WindowCounts, WindowKey
from phantom_monitor.domain.labels import relabel
from phantom_monitor.domain.shadows import agreement
from phantom_monitor.store import PostgresShadows
from phantom_platform.postgres import Transaction

Changes = dict[WindowKey, WindowCounts]


class Shadowing:
    """Joins shadow rows with the answers of the same rows, whichever came first. Returns what windows gain."""

    def __init__(self, shadows: PostgresShadows) -> None:
        self._shadows = shadows

    async def recorded(self, tx: Transaction, answers: Sequence[Answer], copies: Sequence[Answer]) -> Changes:
        """Keep what shadows answered, and compare what has found its answer; the answers are stored already."""
        if copies:
            await self._shadows.insert(tx, [row for copy in copies for row in shadow_rows(copy)])
        ids = {UUID(bytes=a.prediction_id) for a in (*answers, *copies) if a.status == OK}
        changes: Changes = {}
        pairs = await self._shadows.lock_pairs(tx, list(ids))
        if not pairs:
            return changes
        compared, labelled = [], []
        for pair in pairs:
            _add(changes, pair.window, agreement(pair))
            compared.append(pair.shadow)
            label = true_label(pair.answer.counted, None, pair.shadow.class_labels)
            if (change := relabel(pair.shadow, label)) is not None:
                _add(changes, pair.shadow.window, change)
                labelled.append((pair.shadow, label))
        await self._shadows.compared(tx, compared)
        await self._shadows.set_counted(tx, labelled)
        return changes

    async def relabelled(
        self, tx: Transaction, rows: Sequence[tuple[str, str, str, int, str | None]]
    ) -> Changes:
        """The answers' labels changed: (workspace, endpoint, prediction id, row, label)."""
        labels = {row[:4]: row[4] for row in rows}
        changes: Changes = {}
        labelled = []
        for shadow in await self._shadows.lock_labelled(tx, sorted(labels)):
            here = (shadow.window.workspace, shadow.window.endpoint, shadow.prediction_id, shadow.row)
            label = true_label(labels[here], None, shadow.class_labels)
            if (change := relabel(shadow, label)) is not None:
                _add(changes, shadow.window, change)
                labelled.append((shadow, label))
        await self._shadows.set_counted(tx, labelled)
        return changes


def shadow_rows(copy: Answer) -> list[tuple[Any, ...]]:
    """The rows of a copy's answer as `shadow_rows` has them."""
    shared = (
        copy.assigned,
        copy.arm,
        copy.decision,
        copy.route_version,
        copy.group,
        copy.received_us,
        copy.answered_us,
    )
    identity = (copy.workspace, copy.endpoint, UUID(bytes=copy.prediction_id))
    return [
        (*identity, copy.row_offset + i, *shared, *row.columns(), None, False)
        for i, row in enumerate(copy.row_answers())
    ]


def _add(changes: Changes, key: WindowKey, change: WindowCounts) -> None:
    changes.setdefault(key, WindowCounts()).merge(change)
