"""What the windows say of a rollout, recomputed from all of them whenever one has changed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from phantom_deployer.domain.evidence import Block, BlockKey, Closed, Seen, block_key
from phantom_deployer.domain.rollouts.judging import Cohort, figures, judgement
from phantom_deployer.domain.rollouts.model import WINDOW_S, Rollout, ShadowReport, Span
from phantom_deployer.domain.rollouts.shadowing import Agreed, report
from phantom_deployer.domain.rollouts.turn import Evidence
from phantom_deployer.service.ports import Reads
from phantom_platform.clock import Clock
from phantom_statistics.rollouts import Pair, Sums

TIMEOUT_S = 30.0
_Sign = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Packed:
    """A block of that sign: sums of control and candidate, all and matured, packed; and what copies came out as."""

    sign: _Sign
    sums: tuple[bytes, ...]
    agreements: tuple[Agreed, ...]


@dataclass(slots=True)
class _Merged:
    """One span's sums, and of what they are the sums."""

    key: BlockKey
    signs: tuple[tuple[int, _Sign], ...] = ()
    cohort: Cohort = field(default_factory=Cohort)
    last_traffic_at: datetime | None = None
    blocks: dict[int, _Packed] = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    """What was found out at the last look at a rollout."""

    sign: tuple[object, ...]
    evidence: Evidence
    spans: dict[int, _Merged]


class Evidences:
    """Keeps what it merged, by rollout; `forget` lets go of it. One look at a rollout at a time.

    Silence counts from when this process began: what was missed before it did proves nothing.
    """

    def __init__(self, reads: Reads, clock: Clock, *, timeout_s: float = TIMEOUT_S) -> None:
        self._reads = reads
        self._clock = clock
        self._timeout = timedelta(seconds=timeout_s)
        self._began_at = clock.now()
        self._known: dict[str, _Known] = {}

    def forget(self, rollout_id: str) -> None:
        self._known.pop(rollout_id, None)

    async def of(self, rollout: Rollout) -> Evidence:
        """As known now."""
        now = self._clock.now()
        closed = await self._reads.closed(rollout.workspace, rollout.deployment_id)
        unavailable = self._unavailable(rollout, closed, now)
        # The monitor's clock may be ahead of ours: nothing is known of what has not been yet.
        until = min(closed.until, now) if closed else None
        if until is None or rollout.span is None or not _has_evidence(rollout):
            return Evidence(unavailable=unavailable, closed_until=until)
        seen = await self._reads.newest_seen(rollout.workspace, rollout.deployment_id)
        sign = (seen, _windows_until(until), rollout.spans, rollout.judged_from)
        known = self._known.get(rollout.id)
        if known is None or known.sign != sign:
            spans = await self._merge(rollout, until, known.spans if known else {})
            known = _Known(sign, _evidence(rollout, spans, now, until), spans)
            self._known[rollout.id] = known
        return replace(known.evidence, unavailable=unavailable, closed_until=until)

    def _unavailable(self, rollout: Rollout, closed: Closed | None, now: datetime) -> str:
        """Why nothing can be known of the present; empty where it can."""
        limit = f"for {self._timeout.total_seconds():g} s"
        if closed is None:
            begin = max(self._began_at, rollout.spans[0].set_at or now) if rollout.spans else now
            silent = now - begin > self._timeout
            return f"the monitor has said nothing of {rollout.deployment_id} {limit}" if silent else ""
        if now - max(closed.heard_at, self._began_at) > self._timeout:
            return (
                f"the monitor was last heard at {closed.heard_at:%H:%M:%S}, and has said nothing of "
                f"{rollout.deployment_id} {limit}"
            )
        if now - max(closed.until, self._began_at) > self._timeout:
            return (
                f"what gateways served is known up to {closed.until:%H:%M:%S} only: one of them has said nothing "
                f"{limit}"
            )
        return ""

    async def _merge(
        self, rollout: Rollout, until: datetime, known: dict[int, _Merged]
    ) -> dict[int, _Merged]:
        merged: dict[int, _Merged] = {}
        for index, span in enumerate(rollout.spans):
            key = block_key(rollout, span, until)
            merged[index] = (
                await self._span(key, known.get(index)) if key else _Merged(_nothing(rollout, span, until))
            )
        return merged

    async def _span(self, key: BlockKey, known: _Merged | None) -> _Merged:
        """Only blocks that changed are read and merged anew."""
        found = await self._reads.blocks(key)
        signs = tuple((each.number, each.sign) for each in found)
        is_same_cut = known is not None and (known.key.begin, known.key.length_s) == (key.begin, key.length_s)
        if known is not None and is_same_cut and known.signs == signs:
            known.key = key
            known.cohort.blocks = _whole(key, known.blocks)
            return known
        before = known.blocks if known is not None and is_same_cut else {}
        merged = _Merged(key, signs, last_traffic_at=_last_traffic(found))
        for each in found:
            kept = before.get(each.number)
            if kept is None or kept.sign != each.sign:
                kept = _packed(each.sign, await self._reads.block(key, each.number))
            merged.blocks[each.number] = kept
            _add(merged.cohort, kept)
        merged.cohort.blocks = _whole(key, merged.blocks)
        return merged


def _has_evidence(rollout: Rollout) -> bool:
    """Also of earlier steps, while gateways have not acknowledged the present one yet."""
    return any(each.started_at is not None for each in rollout.spans)


def _windows_until(moment: datetime) -> int:
    """How many windows have ended by then."""
    return int(moment.timestamp()) // WINDOW_S


def _evidence(rollout: Rollout, spans: dict[int, _Merged], now: datetime, until: datetime) -> Evidence:
    present = spans[len(rollout.spans) - 1]
    cohorts = [spans[index].cohort for index in range(len(rollout.spans))]
    return Evidence(
        closed_until=until,
        verdict=judgement(rollout, cohorts[rollout.judged_from :], now, until),
        requests=present.cohort.operational.candidate.requests,
        last_traffic_at=present.last_traffic_at,
        figures=figures(cohorts),
        shadow=_shadow(cohorts) if rollout.spec.strategy == "shadow" else None,
    )


def _shadow(cohorts: list[Cohort]) -> ShadowReport:
    whole, agreements = Pair.empty(), []
    for each in cohorts:
        whole.merge(each.operational)
        agreements.extend(each.agreements)
    return report(agreements, whole)


def _last_traffic(found: list[Seen]) -> datetime | None:
    return max((each.last_traffic_at for each in found if each.last_traffic_at), default=None)


def _packed(sign: _Sign, block: Block) -> _Packed:
    operational, matured = Pair.empty(), Pair.empty()
    for window in block.windows:
        sums = Sums.from_bytes(window.sums)
        for pair in (operational, matured) if window.is_matured else (operational,):
            (pair.candidate if window.is_candidate else pair.control).merge(sums)
    parts = (operational.control, operational.candidate, matured.control, matured.candidate)
    agreements = tuple(_agreed(each.agreement_json) for each in block.windows if each.agreement_json)
    return _Packed(sign, tuple(each.to_bytes() for each in parts), agreements)


def _agreed(text: str) -> Agreed:
    kept = json.loads(text)
    return Agreed(kept["compared"], kept["agreed"], kept["difference"])


def _add(cohort: Cohort, packed: _Packed) -> None:
    sums = [Sums.from_bytes(each) for each in packed.sums]
    cohort.operational.merge(Pair(sums[0], sums[1]))
    cohort.matured.merge(Pair(sums[2], sums[3]))
    cohort.agreements.extend(packed.agreements)


def _whole(key: BlockKey, blocks: dict[int, _Packed]) -> list[tuple[int, Sums]]:
    """The candidate's sums of the blocks to which nothing can be added; of the span that goes on only."""
    if key.end is not None:
        return []
    return [
        (key.starts_at(number), Sums.from_bytes(packed.sums[1]))
        for number, packed in sorted(blocks.items())
        if key.is_whole(number)
    ]


def _nothing(rollout: Rollout, span: Span, until: datetime) -> BlockKey:
    """Of a span whose clock never started: no window is in it."""
    return BlockKey(
        workspace=rollout.workspace,
        endpoint=rollout.deployment_id,
        candidate=rollout.candidate,
        stable=rollout.stable,
        first_version=span.first_version,
        last_version=span.last_version,
        begin=until,
        end=until,
        closed_until=until,
        matured_until=until,
        length_s=5,
    )
