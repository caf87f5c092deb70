"""`Closing`: up to when an endpoint's windows are announced, said behind them in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from phantom_contracts.events.monitor import WindowsClosed
from phantom_contracts.topics import WINDOWS
from phantom_monitor.domain.completeness import Standing, closed_until, vouchers
from phantom_monitor.domain.counts import WindowKey
from phantom_monitor.store.closings import PostgresClosings, Said
from phantom_platform.postgres import Transaction

# Every 5 s at least: whoever listens takes 30 s of silence for an outage.
REPEAT = timedelta(seconds=4)


class Closing:
    """Says `WindowsClosed`; what was said is never taken back, also not after a restart."""

    def __init__(self, closings: PostgresClosings) -> None:
        self._closings = closings

    async def say(
        self, tx: Transaction, standing: Standing, missed: Iterable[WindowKey], now: datetime
    ) -> None:
        """Say what is new, or again after a while. `missed`: windows that should be announced and are not."""
        open_s: dict[tuple[str, str], int] = {}
        for key in missed:
            here = (key.workspace, key.endpoint)
            open_s[here] = min(open_s.get(here, key.start_s), key.start_s)
        before = await self._closings.said(tx)
        for here in sorted(standing.endpoints):
            until_s = closed_until(standing.sources(*here), standing.reading, now.timestamp())
            last = before.get(here)
            if here in open_s:
                if last is not None and open_s[here] < last.until_s:
                    continue
                until_s = min(until_s, open_s[here]) if until_s is not None else None
            if last is not None and (until_s is None or until_s <= last.until_s):
                if now - last.at < REPEAT:
                    continue
                until_s = last.until_s
            if until_s is not None:
                await self._say(tx, here, standing, Said(until_s, now))

    async def _say(self, tx: Transaction, here: tuple[str, str], standing: Standing, said: Said) -> None:
        count = vouchers(standing.sources(*here), standing.reading, said.at.timestamp(), said.until_s)
        if not count or not await self._closings.say(tx, *here, said):
            return
        workspace, endpoint = here
        until = datetime.fromtimestamp(said.until_s, UTC)
        event = WindowsClosed(workspace=workspace, endpoint=endpoint, until=until, gateways=count)
        tx.outbox.add(WINDOWS, f"{workspace}/{endpoint}", event)
