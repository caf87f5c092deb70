"""Each invariant of the demo can break, and is named when it does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from phantom_contracts.events.deployer import BucketRange, RouteRecord, RouteRevision
from phantom_contracts.schema import Column, EndpointSchema
from phantom_demo import automatic
from phantom_demo.flights import Flights
from phantom_demo.invariants import check_all, shares
from phantom_demo.replay import Answered
from phantom_ml_studio import Route

UNITS = [f"N{number}" for number in range(200)]


def route(version: int, percent: int) -> Route:
    return Route(
        RouteRecord(
            version=version,
            endpoint="flights-prod",
            endpoint_schema=EndpointSchema(columns=(Column(name="distance"),)),
            hash_field="tailnum",
            salt="salt",
            allocations=(BucketRange(start=0, end=percent * 100, arm="candidate"),) if percent else (),
            arms={"control": "flights-prod.1", "candidate": "flights-prod.2"},
            revisions=tuple(
                RouteRevision(id=f"flights-prod.{n}", model_id="flights", model_version=f"1.{n}.0")
                for n in (1, 2)
            ),
        )
    )


ROUTES = {3: route(3, 10), 4: route(4, 50)}
FLIGHTS = Flights(
    features=pd.DataFrame({"distance": np.zeros(400)}),
    row=np.arange(400),
    tail=np.array([*UNITS, *UNITS]),
    late=np.zeros(400),
)


def honest_calls() -> list[Answered]:
    calls = []
    for i in range(400):
        version = 3 if i < 200 else 4
        explained = ROUTES[version].explain(FLIGHTS.tail[i])
        calls.append(Answered(i, f"id-{i}", explained.revision, explained.arm, version, False, "", 1.0))
    return calls


def broken(
    calls: list[Answered], logged: Counter[str] | None = None, counted: int | None = None
) -> list[str]:
    answered = [call.prediction_id for call in calls if not call.error]
    verdicts = check_all(
        calls,
        FLIGHTS,
        ROUTES,
        Counter(answered) if logged is None else logged,
        len(answered) if counted is None else counted,
    )
    return [verdict.name for verdict in verdicts if not verdict.holds]


def test_honest_calls_break_nothing() -> None:
    assert broken(honest_calls()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"error": "UNAVAILABLE: nobody"}, "no request failed"),
        ({"fallback": True}, "none fell back"),
        (
            {"revision": "flights-prod.9"},
            "the revision of every tail number is the one that offline assignment gives",
        ),
    ],
)
def test_one_bad_call_is_named(change: dict[str, object], named: str) -> None:
    calls = honest_calls()
    calls[17] = replace(calls[17], **change)  # type: ignore[arg-type]
    assert broken(calls) == [named]


def test_a_unit_that_moves_back_is_named() -> None:
    calls = honest_calls()
    early = next(i for i in range(200) if calls[i].variant == "candidate")
    calls[early + 200] = replace(calls[early + 200], variant="control")
    assert broken(calls) == ["no unit moves back as the weights rise"]


def test_missing_and_repeated_records_are_named() -> None:
    calls = honest_calls()
    once = Counter(call.prediction_id for call in calls)
    named = ["every answered call is in the prediction topic exactly once"]
    assert broken(calls, logged=once - Counter(["id-3"])) == named
    assert broken(calls, logged=once + Counter(["id-3"])) == named


def test_a_wrong_count_is_named() -> None:
    assert broken(honest_calls(), counted=399) == ["the monitor counted every answered call exactly once"]


def test_shares_are_of_distinct_units_with_their_interval() -> None:
    first, second = shares(honest_calls(), FLIGHTS, ROUTES)
    assert (first.units, first.configured, second.configured) == (200, 0.1, 0.5)
    assert first.interval.holds(0.1)
    assert second.interval.holds(0.5)


def test_flights_without_a_tail_number_are_no_units() -> None:
    anonymous = replace(FLIGHTS, tail=np.array([""] * 400))
    assert shares(honest_calls(), anonymous, ROUTES) == []


def test_a_rollback_gives_units_back_without_breaking_the_rise() -> None:
    fallen = route(5, 0)
    explained = [(i, fallen.explain(FLIGHTS.tail[i])) for i in range(200)]
    later = [Answered(i, f"id-{1000 + i}", e.revision, e.arm, 5, False, "", 1.0) for i, e in explained]
    calls = honest_calls() + later
    verdicts = check_all(
        calls, FLIGHTS, ROUTES | {5: fallen}, Counter(c.prediction_id for c in calls), len(calls)
    )
    assert [v.name for v in verdicts if not v.holds] == []


def test_a_rollout_that_ended_otherwise_is_named() -> None:
    def outcome(version: str, state: str, criterion: str) -> automatic.Outcome:
        return automatic.Outcome(version, state, criterion, "why", 30.0, 3_000, "flights-prod.3")

    right = [outcome("1.2.0", "rolled_back", "log_loss"), outcome("1.3.0", "succeeded", "")]
    assert all(verdict.holds for verdict in automatic.check(right))
    wrong = [outcome("1.2.0", "rolled_back", "error_rate"), outcome("1.3.0", "paused", "")]
    assert not any(verdict.holds for verdict in automatic.check(wrong))
