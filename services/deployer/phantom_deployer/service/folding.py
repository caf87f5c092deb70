"""Windows of a long rollout that do not change any more become one an hour, so that it is judged by few."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from phantom_deployer.domain.evidence import FINAL_AFTER, FOLD, Folded, Window, block_key
from phantom_deployer.domain.rollouts.model import Rollout, Span
from phantom_deployer.domain.values import RolloutKey
from phantom_deployer.service.ports import Store, Work
from phantom_platform.clock import Clock
from phantom_statistics.rollouts import Sums

# Hours merged at once at most: the rest has time.
MOST_HOURS = 24


async def fold(store: Store, clock: Clock, key: RolloutKey) -> int:
    """Merge what is final, oldest first; returns how many hours. Nobody may look at the rollout meanwhile."""
    for hours in range(MOST_HOURS):
        async with store.transaction() as work:
            rollout = await work.rollout(key.workspace, key.rollout_id)
            if rollout is None or not rollout.is_live or not await _fold_hour(work, rollout, clock.now()):
                return hours
    return MOST_HOURS


async def _fold_hour(work: Work, rollout: Rollout, now: datetime) -> bool:
    """The oldest hour that is not merged yet; False where none is final."""
    closed = await work.closed(rollout.workspace, rollout.deployment_id)
    oldest = await work.oldest_window(rollout.workspace, rollout.deployment_id)
    if closed is None or oldest is None:
        return False
    known = min(closed.until, now)
    hour = oldest - timedelta(seconds=oldest.timestamp() % FOLD.total_seconds())
    if hour + FOLD > known - FINAL_AFTER - timedelta(seconds=rollout.maturity_s or 0.0):
        return False
    folded = [each for span in rollout.spans for each in await _part(work, rollout, span, hour, known)]
    await work.replace_windows(rollout.workspace, rollout.deployment_id, hour + FOLD, folded)
    return True


async def _part(work: Work, rollout: Rollout, span: Span, hour: datetime, known: datetime) -> list[Folded]:
    """What of that hour belongs to the span: at most one row for each revision and decision."""
    key = block_key(rollout, span, known)
    if key is None:
        return []
    begin = max(hour, key.begin)
    length_s = math.ceil((min(hour + FOLD, key.end or hour + FOLD) - begin).total_seconds())
    if length_s <= 0:
        return []
    found = await work.block(replace(key, begin=begin, length_s=length_s), 0)
    alike: dict[tuple[bool, str], list[Window]] = defaultdict(list)
    for each in found.windows:
        alike[each.is_candidate, each.decision].append(each)
    return [
        Folded(
            begin,
            length_s,
            span.first_version,
            rollout.candidate if is_candidate else rollout.stable,
            _merged(windows, decision),
        )
        for (is_candidate, decision), windows in alike.items()
    ]


def _merged(windows: Iterable[Window], decision: str) -> Window:
    sums, agreements = Sums(), []
    requests = failures = 0
    for each in windows:
        sums.merge(Sums.from_bytes(each.sums))
        requests, failures = requests + each.requests, failures + each.failures
        if each.agreement_json:
            agreements.append(json.loads(each.agreement_json))
    agreement = {
        name: sum(each[name] for each in agreements) for name in ("compared", "agreed", "difference")
    }
    return Window(
        sums.to_bytes(),
        decision=decision,
        agreement_json=json.dumps(agreement) if agreements else None,
        requests=requests,
        failures=failures,
    )
