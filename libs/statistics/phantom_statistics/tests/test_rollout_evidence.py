from datetime import UTC, datetime

import numpy as np
import pytest

from phantom_contracts.events.monitor import GroupSums, Sketch, WindowPublished
from phantom_statistics.latency import LatencySketch
from phantom_statistics.rollouts import Pair, Sums
from phantom_statistics.tests.rollout_sums import sums_of

WINDOW = WindowPublished(
    endpoint="fraud",
    revision="r2",
    arm="candidate",
    decision="rollout",
    route_version=3,
    start=datetime(2026, 1, 1, tzinfo=UTC),
    revision_no=1,
    state="complete",
    requests=5,
    rows=6,
    latency_ms=Sketch(zeros=1, steps=(300, 2), counts=(3, 1)),
    classes={"yes": 2, "no": 4},
    scores={3: 2, 999: 4},
    groups={
        4: GroupSums(
            requests=3, failures=1, rejected=1, labelled=2, correct=1, log_loss=0.25, latency={3: 1}
        ),
        63: GroupSums(requests=2, latency={-2: 1, 80: 1}),
    },
)


def test_a_window_becomes_sums_as_event_and_as_json_alike():
    sums = Sums.of_window(WINDOW)
    assert sums.groups[4].tolist() == [3, 1, 1, 2, 1, 0.25]
    assert sums.requests == 5
    assert sums.rows == 6
    assert sums.latency.count == 5
    assert (sums.slow[4, 3], sums.slow[63, 0], sums.slow[63, 63]) == (1, 1, 1)  # ends are clipped
    assert sums.scores[3] == 2
    assert sums.scores[999] == 4
    assert Sums.of_window(WINDOW.model_dump(mode="json")) == sums


def test_sums_survive_the_trip_through_bytes():
    for sums in (Sums(), Sums.of_window(WINDOW), sums_of(500, 0.1), sums_of(3)):
        sums.groups[0, 0] += 2**33  # more than four bytes hold
        assert Sums.from_bytes(sums.to_bytes()) == sums
        assert np.array_equal(Sums.from_bytes(sums.to_bytes()).groups, sums.groups)


def test_sums_from_bytes_can_be_added_to():
    sums = Sums.from_bytes(sums_of(50).to_bytes())
    sums.merge(sums_of(70, seed=1))
    assert sums.requests == 120


def test_a_window_of_fifty_calls_takes_less_than_four_kilobytes():
    assert len(sums_of(50, 0.01).to_bytes()) < 4096


def test_merged_sums_are_the_same_in_any_order():
    parts = [sums_of(40 + seed, 0.1, seed=seed) for seed in range(4)]
    forward, backward = Sums.total(parts), Sums.total(reversed(parts))
    assert np.allclose(forward.groups, backward.groups)
    forward.groups[:, 5] = backward.groups[:, 5] = 0  # sums of floats round
    assert forward == backward
    assert forward.rows == forward.requests == sum(part.requests for part in parts)


def test_pairs_add_up_by_side():
    pair = Pair.empty()
    pair.merge(Pair(control=sums_of(30), candidate=sums_of(10)))
    pair.merge(Pair(control=sums_of(30), candidate=sums_of(10)))
    assert (pair.control.requests, pair.candidate.requests) == (60, 20)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "begin"),
        (b"nonsense", "begin"),
        (sums_of(20).to_bytes()[:-1], "too early"),
        (sums_of(20).to_bytes() + b"x", "left over"),
        (b"PS1\0\x02\0\0\0{}", "no sums"),
    ],
)
def test_bytes_that_are_no_sums_are_refused(data, why):
    with pytest.raises(ValueError, match=why):
        Sums.from_bytes(data)


def test_a_window_with_an_impossible_group_or_score_is_refused_by_name():
    with pytest.raises(ValueError, match="unit group 64"):
        Sums.of_window({"groups": {"64": {"requests": 1}}})
    with pytest.raises(ValueError, match="score bin 1000"):
        Sums.of_window({"scores": {"1000": 1}})


@pytest.mark.parametrize("q", [0.0, 0.5, 0.95, 1.0])
def test_a_sketch_counts_exactly_what_lies_above_an_edge_in_every_sketch(q):
    rng = np.random.default_rng(3)
    mine, theirs = rng.lognormal(3, 1, 500), rng.lognormal(3.2, 1, 300)
    sketch, other = LatencySketch(), LatencySketch()
    sketch.add(mine)
    other.add(theirs)
    edge = sketch.edge(q)
    value = sketch.edge_value(edge)
    assert np.quantile(mine, q, method="lower") <= value * (1 + 1e-9)
    assert sketch.count_above(edge) == (mine > value).sum()
    assert other.count_above(edge) == (theirs > value).sum()
    assert sketch.edge_of(value * 0.999) == edge


def test_edges_at_the_ends_of_a_sketch():
    sketch, empty = LatencySketch(), LatencySketch()
    sketch.add(np.array([0.0, 0.0, 5.0]))
    assert empty.edge(0.95) is None
    assert empty.count_above(100) == 0
    assert sketch.count_above(sketch.edge(0.0)) == 1  # the zeros lie below every bin
    assert sketch.count_above(sketch.edge_of(1e6)) == 0
