"""`Monitor`: record answers and outcomes, announce windows, answer questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from phantom_contracts.events.monitor import WindowPublished
from phantom_contracts.schema import ModelSchema
from phantom_contracts.topics import WINDOWS
from phantom_monitor.closing import Closing
from phantom_monitor.converters import Batch
from phantom_monitor.domain.answers import OK, SHADOW, Answer, tally
from phantom_monitor.domain.completeness import Reading, Source, Standing, is_complete
from phantom_monitor.domain.counts import WINDOW_S, WindowCounts, WindowKey
from phantom_monitor.domain.figures import Figures, figures
from phantom_monitor.labelling import Labelling
from phantom_monitor.shadowing import Shadowing
from phantom_monitor.store import (
    PostgresClosings,
    PostgresGateways,
    PostgresPredictions,
    PostgresShadows,
    PostgresWindows,
)
from phantom_monitor.values import Reported, Routes, StoredWindow, unix_us
from phantom_platform.errors import Invalid
from phantom_platform.postgres import Transaction

# An outcome from further in the future than this is not believed.
FUTURE = timedelta(minutes=5)
WAITING = timedelta(days=7)
REPEATS = timedelta(days=14)
WINDOWS_KEPT = timedelta(days=30)
# Windows whose gateways were not heard for a day stay as they are.
SOURCES_KEPT = timedelta(days=1)
PUBLISH_LIMIT = 500


class Published(NamedTuple):
    """How many windows were announced, and how many are still to be: beyond the limit, or just being written."""

    windows: int
    missed: int


class Transactions(Protocol):
    """Where transactions come from: a `Database`."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...


class Monitor:
    """The use cases. Methods with a transaction take part in it; the others open their own."""

    def __init__(
        self,
        database: Transactions,
        windows: PostgresWindows,
        gateways: PostgresGateways,
        predictions: PostgresPredictions,
        shadows: PostgresShadows,
        routes: Routes,
    ) -> None:
        self._database = database
        self._windows = windows
        self._gateways = gateways
        self._predictions = predictions
        self._shadows = shadows
        self._routes = routes
        self._shadowing = Shadowing(shadows)
        self._labelling = Labelling(predictions, windows, self._shadowing, routes)
        self._closing = Closing(PostgresClosings())

    # -- events in -------------------------------------------------------------------------------------------------

    async def record_predictions(self, tx: Transaction, batches: Sequence[Batch]) -> None:
        """Count each batch once, however often it comes."""
        new: list[Batch] = []
        watermarks: dict[tuple[str, str, str], int] = {}
        for batch in batches:
            key = (batch.workspace, batch.endpoint, batch.boot_id)
            watermarks[key] = max(watermarks.get(key, 0), batch.watermark_us)
            if await self._gateways.claim_batch(tx, batch.boot_id, batch.partition, batch.sequence):
                new.append(batch)
            else:
                await self._gateways.count_repeat(tx, batch.workspace, batch.endpoint)
        await self._gateways.advance(tx, watermarks)
        if records := [answer for batch in new for answer in batch.answers]:
            await self._record(tx, records)

    async def _record(self, tx: Transaction, records: Sequence[Answer]) -> None:
        answers = [record for record in records if record.decision != SHADOW]
        copies = [record for record in records if record.decision == SHADOW]
        await self._predictions.insert(tx, [row for a in answers for row in self._rows(a)])
        changes = tally(records)
        for key, change in (await self._shadowing.recorded(tx, answers, copies)).items():
            changes.setdefault(key, WindowCounts()).merge(change)
        await self._windows.add(tx, changes)
        await self._labelling.answered(tx, answers)

    async def record_outcomes(self, tx: Transaction, reported: Sequence[Reported]) -> None:
        """Keep the newest outcome of each id. Raises Invalid `outcome_from_the_future`."""
        for outcome in reported:
            if outcome.event_us > unix_us(tx.now + FUTURE):
                raise Invalid(
                    f"the outcome of {outcome.id!r} is from the future: check the clock of its sender",
                    code="outcome_from_the_future",
                )
        await self._labelling.reported(tx, reported)

    async def gateway_joined(self, tx: Transaction, boot_id: str, at: datetime) -> None:
        """From now on no window is complete without it."""
        await self._gateways.joined(tx, boot_id, at)

    async def gateway_left(self, tx: Transaction, boot_id: str, at: datetime) -> None:
        """It has nothing more to say."""
        await self._gateways.left(tx, boot_id, at)

    # -- by the clock ----------------------------------------------------------------------------------------------

    async def publish_windows(self, reading: Reading, now: datetime) -> Published:
        """Announce windows that have ended and changed, or become complete, and behind them up to when all are."""
        # Of gateways heard before that nothing is known any more: what they left open stays as it is.
        oldest_s = int((now - SOURCES_KEPT).timestamp())
        # The window that is being filled is left until it has ended.
        ended_by_s = int(now.timestamp()) - WINDOW_S
        async with self._database.transaction() as tx:
            # In this order: what gateways promise, then what waits for being announced, then what can be.
            standing = await self._standing(tx, reading, now)

            def completes(key: WindowKey) -> bool:
                sources = standing.sources(key.workspace, key.endpoint)
                return key.start_s >= oldest_s and is_complete(key.start_s, sources, reading, now.timestamp())

            waiting = await self._windows.waiting(tx, oldest_s, ended_by_s)
            windows = await self._windows.lock_open(tx, oldest_s, ended_by_s, PUBLISH_LIMIT)
            published = [await self._announce(tx, window, completes) for window in windows]
            taken = {window.key for window in windows}
            missed = [
                key for key, is_changed in waiting if key not in taken and (is_changed or completes(key))
            ]
            await self._closing.say(tx, standing, missed, now)
        return Published(sum(published), len(missed))

    async def _announce(
        self, tx: Transaction, window: StoredWindow, completes: Callable[[WindowKey], bool]
    ) -> bool:
        """Announce a window that changed or becomes complete; whether it did."""
        becomes_complete = not window.is_complete and completes(window.key)
        if not (window.is_changed or becomes_complete):
            return False
        window.is_complete = window.is_complete or becomes_complete
        window.revision_no += 1
        await self._windows.published(tx, window)
        tx.outbox.add(WINDOWS, f"{window.key.workspace}/{window.key.endpoint}", event(window))
        return True

    async def count_matured(self, now: datetime, limit: int = 1000) -> int:
        """Count labels whose predictions have matured since; returns how many outcomes joined."""
        async with self._database.transaction() as tx:
            return await self._labelling.matured(tx, now, limit)

    async def forget_old(self, now: datetime) -> None:
        """Drop what can no longer be asked for or repeated."""
        async with self._database.transaction() as tx:
            await self._predictions.give_up(tx, now - WAITING)
            await self._predictions.prune(tx, unix_us(now - WAITING), unix_us(now))
            await self._shadows.prune(tx, unix_us(now - WAITING))
            await self._gateways.prune(tx, now - REPEATS)
            await self._windows.prune(tx, int((now - WINDOWS_KEPT).timestamp()))

    async def route_changed(
        self, workspace: str, endpoint: str, aliases: Iterable[str], schemas: Mapping[str, ModelSchema]
    ) -> None:
        """Keep the schemas of a route's revisions, and claim outcomes that came under its aliases."""
        async with self._database.transaction() as tx:
            for revision, schema in sorted(schemas.items()):
                await self._predictions.save_schema(tx, workspace, revision, schema)
            for alias in aliases:
                await self._predictions.rename_endpoint(tx, workspace, alias, endpoint)

    # -- questions -------------------------------------------------------------------------------------------------

    def canonical(self, workspace: str, endpoint: str) -> str:
        """The endpoint that a name or alias means."""
        return self._routes.canonical(workspace, endpoint)

    async def summary(
        self, workspace: str, endpoint: str, start_s: int, end_s: int
    ) -> dict[tuple[str, str, str], tuple[WindowCounts, Figures]]:
        """Merged windows by (revision, arm, decision)."""
        merged: dict[tuple[str, str, str], WindowCounts] = {}
        for window in await self._windows.of_endpoint(workspace, endpoint, start_s, end_s):
            key = (window.key.revision, window.key.arm, window.key.decision)
            merged.setdefault(key, WindowCounts()).merge(window.counts)
        return {key: (counts, figures(counts)) for key, counts in sorted(merged.items())}

    async def windows(
        self, workspace: str, endpoint: str, span: tuple[int, int], limit: int, after: WindowKey | None
    ) -> list[StoredWindow]:
        """The next stored windows that begin in [start, end), unix seconds, after a key, in time order."""
        return await self._windows.page(workspace, endpoint, span, limit, after)

    async def counts(self, workspace: str, endpoint: str) -> dict[str, Any]:
        """What has been counted, once each: the fields of GetCountsResponse."""
        here = [
            t
            for t in await self._windows.totals()
            if (t["workspace"], t["endpoint"]) == (workspace, endpoint) and t["decision"] != SHADOW
        ]
        answered = sum(t["answered"] for t in here)
        return {
            "answered_calls": answered,
            "answered_rows": sum(t["rows"] for t in here),
            "failed_calls": sum(t["requests"] for t in here) - answered,
            "watermarks_us": await self._gateways.watermarks(workspace, endpoint),
        } | await self._predictions.counts(workspace, endpoint)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _rows(self, answer: Answer) -> list[tuple[Any, ...]]:
        """The answer's rows as the join table has them."""
        if answer.status != OK or answer.block is None:
            return []
        schema = self._routes.schema(answer.workspace, answer.assigned)
        maturity_s = schema.outcome.maturity_s if schema and schema.outcome else 0.0
        identity = (answer.workspace, answer.endpoint, UUID(bytes=answer.prediction_id))
        shared = (
            answer.request_id,
            answer.assigned,
            answer.arm,
            answer.decision,
            answer.route_version,
            answer.group,
            answer.received_us,
            answer.answered_us,
        )
        matures_us = answer.received_us + int(maturity_s * 1_000_000)
        return [
            (
                *identity,
                answer.row_offset + i,
                *shared,
                *row.columns(),
                matures_us,
                None,
            )
            for i, row in enumerate(answer.row_answers())
        ]

    async def _standing(self, tx: Transaction, reading: Reading, now: datetime) -> Standing:
        rows = await self._gateways.sources(tx, now - SOURCES_KEPT)
        known = {row["boot_id"]: row for row in rows}
        sent: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        for row in rows:
            if row["endpoint"] is not None:
                sent[row["workspace"], row["endpoint"]][row["boot_id"]] = row

        def sources(here: Mapping[str, Any]) -> list[Source]:
            return [
                Source(
                    boot_id,
                    row["has_joined"],
                    row["has_left"],
                    here[boot_id]["watermark_us"] / 1e6 if boot_id in here else None,
                    (here.get(boot_id) or row)["heard_at"].timestamp(),
                )
                for boot_id, row in known.items()
            ]

        return Standing(reading, {key: sources(here) for key, here in sent.items()}, sources({}))


def event(window: StoredWindow) -> WindowPublished:
    """A window as it is announced."""
    key = window.key
    return WindowPublished.model_validate(
        {
            "workspace": key.workspace,
            "endpoint": key.endpoint,
            "revision": key.revision,
            "arm": key.arm,
            "decision": key.decision,
            "route_version": key.route_version,
            "segment": key.segment,
            "start": key.start_s,
            "length_s": WINDOW_S,
            "revision_no": window.revision_no,
            "state": "complete" if window.is_complete else "partial",
            **window.counts.to_dict(),
        }
    )
