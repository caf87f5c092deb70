"""What must hold at the end, each checked from what was really seen. A broken one is named."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from phantom_demo.flights import Flights
from phantom_demo.replay import Answered
from phantom_ml_studio import Route
from phantom_statistics.intervals import Interval, clopper_pearson


@dataclass(frozen=True)
class Verdict:
    """One invariant: its name, whether it holds, and the figures it rests on."""

    name: str
    holds: bool
    evidence: str


@dataclass(frozen=True)
class Share:
    """Of the distinct tail numbers seen at a route version, those that got the candidate."""

    route_version: int
    configured: float
    candidates: int
    units: int
    interval: Interval


def check_all(
    calls: Sequence[Answered],
    flights: Flights,
    routes: Mapping[int, Route],
    logged: Counter[str],
    counted: int,
) -> list[Verdict]:
    """Every invariant. `logged`: prediction id → times in the topic; `counted`: answered calls of the monitor."""
    return [
        _nothing_failed(calls),
        _nothing_fell_back(calls),
        _assignment_is_exact(calls, flights, routes),
        _no_unit_moves_back(calls, flights, routes),
        _logged_once(calls, logged),
        _counted_once(calls, counted),
    ]


def shares(calls: Iterable[Answered], flights: Flights, routes: Mapping[int, Route]) -> list[Share]:
    """The candidate's share of distinct tail numbers at each route version that has one, with its 99.9 % interval."""
    units: dict[int, dict[str, str]] = defaultdict(dict)
    for call in calls:
        is_rollout = not call.error and "candidate" in routes[call.route_version].record.arms
        if is_rollout and flights.tail[call.flight]:
            units[call.route_version][flights.tail[call.flight]] = call.variant
    found = []
    for version, by_unit in sorted(units.items()):
        candidates = sum(variant == "candidate" for variant in by_unit.values())
        configured = sum(a.end - a.start for a in routes[version].record.allocations) / 10_000
        found.append(
            Share(
                version,
                configured,
                candidates,
                len(by_unit),
                clopper_pearson(candidates, len(by_unit), 0.999),
            )
        )
    return found


def _nothing_failed(calls: Sequence[Answered]) -> Verdict:
    failed = [call for call in calls if call.error]
    return Verdict(
        "no request failed", not failed, f"{len(calls):,} calls, {_some([c.error for c in failed])}"
    )


def _nothing_fell_back(calls: Sequence[Answered]) -> Verdict:
    fallen = [call.prediction_id for call in calls if call.fallback]
    return Verdict("none fell back", not fallen, _some(fallen))


def _assignment_is_exact(calls: Sequence[Answered], flights: Flights, routes: Mapping[int, Route]) -> Verdict:
    expected: dict[tuple[int, str], str] = {}
    wrong: list[str] = []
    for call in calls:
        tail = flights.tail[call.flight]
        if call.error or not tail:
            continue
        key = (call.route_version, tail)
        if key not in expected:
            expected[key] = routes[call.route_version].explain(tail).revision
        if call.revision != expected[key]:
            wrong.append(f"{tail} at route {call.route_version}: {call.revision}, not {expected[key]}")
    evidence = f"{len(expected):,} tail numbers × route versions recomputed offline, {_some(wrong)}"
    return Verdict(
        "the revision of every tail number is the one that offline assignment gives", not wrong, evidence
    )


def _no_unit_moves_back(calls: Sequence[Answered], flights: Flights, routes: Mapping[int, Route]) -> Verdict:
    """While a rollout's share rises, nobody goes from candidate to control."""
    rises = _rises(routes)
    by_unit: dict[tuple[int, str], dict[int, str]] = defaultdict(dict)
    for call in calls:
        rise = rises.get(call.route_version)
        if not call.error and flights.tail[call.flight] and rise is not None:
            by_unit[rise, flights.tail[call.flight]][call.route_version] = call.variant
    back = []
    for (_, tail), variants in by_unit.items():
        ordered = [variant for _, variant in sorted(variants.items())]
        if "control" in ordered[ordered.index("candidate") :] if "candidate" in ordered else False:
            back.append(tail)
    moved = sum(len(set(v.values())) > 1 for v in by_unit.values())
    return Verdict(
        "no unit moves back as the weights rise",
        not back,
        f"{moved:,} tail numbers moved once, {_some(back)}",
    )


def _rises(routes: Mapping[int, Route]) -> dict[int, int]:
    """Route version → number of the rise it belongs to: one rollout's versions with a candidate, until its share falls.

    Completing a rollout renames (the candidate's revision becomes control), and a rollback gives buckets back.
    """
    found: dict[int, int] = {}
    number, salt, share = 0, "", -1
    for version, route in sorted(routes.items()):
        if not route.record.arms.get("candidate"):
            continue
        its_share = sum(a.end - a.start for a in route.record.allocations)
        if route.record.salt != salt or its_share < share:
            number += 1
        salt, share = route.record.salt, its_share
        found[version] = number
    return found


def _logged_once(calls: Sequence[Answered], logged: Counter[str]) -> Verdict:
    answered = {call.prediction_id for call in calls if not call.error}
    missing = [id for id in answered if logged[id] == 0]
    twice = [id for id in answered if logged[id] > 1]
    evidence = f"{len(answered):,} answered, missing: {_some(missing)}, twice: {_some(twice)}"
    return Verdict(
        "every answered call is in the prediction topic exactly once", not (missing or twice), evidence
    )


def _counted_once(calls: Sequence[Answered], counted: int) -> Verdict:
    answered = sum(not call.error for call in calls)
    return Verdict(
        "the monitor counted every answered call exactly once",
        counted == answered,
        f"{answered:,} answered, {counted:,} counted",
    )


def _some(items: Sequence[str]) -> str:
    return "none wrong" if not items else f"{len(items)} wrong, such as {'; '.join(list(items)[:3])}"
