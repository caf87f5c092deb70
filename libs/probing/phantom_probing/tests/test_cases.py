"""Suites of cases, and the comparison of two versions on them."""

from __future__ import annotations

import numpy as np
import pytest

from phantom_platform.errors import Invalid, NotFound, Unavailable
from phantom_probing import cases
from phantom_probing.client import Client, Target
from phantom_probing.comparison import accuracy_worsening, compare, latency_worsening
from phantom_probing.datasets import Labelled
from phantom_probing.rows import Rows

from .conftest import FRAUD, PRICE, Serve, flights


def some_cases(count: int = 200) -> Labelled:
    frame, fraud = flights(count, 11)
    columns = {
        "amount": frame.amount.to_numpy(dtype=float),
        "hour": frame.hour.to_numpy(dtype=float),
        "channel": [str(each) for each in frame.channel],
    }
    labels = [FRAUD.class_labels[each] for each in fraud]
    return Labelled(Rows(columns, count), [f"case-{n}" for n in range(count)], labels, "sha256:1")


async def test_a_suite_has_its_pass_rate_and_names_failures(serve: Serve) -> None:
    suite = some_cases()
    assert isinstance(suite.expected, list)
    suite.expected[3] = "fraud" if suite.expected[3] == "legit" else "legit"
    suite.rows.columns["hour"][5] = np.nan  # refused by this version
    seen: list[float] = []
    async with serve("good") as client:
        found = await cases.run(client, suite, progress=seen.append)
    assert (found.cases, found.passed + found.failed) == (200, 200)
    assert found.pass_rate == found.passed / 200 > 0.9
    assert 0.85 < found.pass_rate_lower < found.pass_rate
    assert found.model_version == "good"
    assert found.dataset_digest == "sha256:1"
    assert (found.latency_p95_ms or 0) > 0
    by_id = {each.case_id: each for each in found.failures}
    assert by_id["case-3"].got != by_id["case-3"].expected == suite.expected[3]
    assert "hour" in by_id["case-5"].error
    assert by_id["case-5"].got == ""
    assert [each.case_id for each in found.failures] == sorted(
        by_id, key=lambda name: int(name.removeprefix("case-"))
    )
    assert seen == [0.25, 0.5, 0.75, 1.0]


async def test_values_pass_within_the_tolerance(serve: Serve) -> None:
    values = np.random.default_rng(3).uniform(size=(500, 2))[:80]
    rows = Rows({"size": values[:, 0], "age": values[:, 1]}, 80)
    suite = Labelled(rows, [str(n) for n in range(80)], 10 * values[:, 0] - values[:, 1], "sha256:1")
    async with serve("price") as client:
        assert client.schema == PRICE
        near, exact = await cases.run(client, suite, 2.0), await cases.run(client, suite, 0.0)
    assert near.pass_rate > 0.9
    assert exact.pass_rate < 0.1
    assert exact.failures[0].got != exact.failures[0].expected


async def test_few_cases_have_no_p95(serve: Serve) -> None:
    async with serve("good") as client:
        found = await cases.run(client, some_cases(10))
    assert found.latency_p95_ms is None


async def test_what_every_case_would_meet_is_raised_and_absence_fails_cases(serve: Serve) -> None:
    async with serve("good") as client, Client(Target(client.target.address, "another"), FRAUD) as lost:
        with pytest.raises(NotFound):
            await cases.run(lost, some_cases(5))
    async with Client(Target("127.0.0.1:1", "fraud"), FRAUD) as away:
        found = await cases.run(away, some_cases(4))
        with pytest.raises(Unavailable):
            await compare(away, away, some_cases(4), 0.05)
    assert (found.passed, found.failed) == (0, 4)
    assert found.failures[0].error.startswith("unavailable")


async def test_a_version_is_not_worse_than_itself_and_a_bad_one_is(serve: Serve) -> None:
    suite = some_cases(150)
    async with serve("good") as good, serve("bad") as bad:
        with pytest.raises(Invalid):
            await compare(good, good, suite, 0.05, calls=50)
        same = await compare(good, good, suite, 0.5, calls=300)
        worse = await compare(bad, good, suite, 0.05, calls=150)
    assert (same.calls, same.cases) == (300, 150)
    assert same.accuracy.estimate == 0
    assert same.accuracy.verdict == "pass"
    assert not same.has_failed
    assert worse.accuracy.verdict == "fail"
    assert worse.has_failed
    assert worse.accuracy.lower > 0.05
    assert "worse" in worse.accuracy.reason


async def test_a_refused_case_is_not_right_and_says_nothing_of_latency(serve: Serve) -> None:
    suite = some_cases(100)
    suite.rows.columns["hour"][:10] = np.nan
    async with serve("good") as good:
        some = await compare(good, good, suite, 5.0, calls=100)
        suite.rows.columns["hour"][:] = np.nan
        none = await compare(good, good, suite, 5.0, calls=100)
    assert some.accuracy.candidate <= 0.9
    assert some.latency_p95.verdict == "pass"
    assert none.latency_p95.verdict == none.accuracy.verdict == "not_enough_data"
    assert "0 cases were answered by both" in none.latency_p95.reason


def test_latency_is_judged_on_the_interval() -> None:
    random = np.random.default_rng(1)
    base, again = random.gamma(4, 1, 600), random.gamma(4, 1, 600)
    assert latency_worsening(again, base, 0.5).verdict == "pass"
    assert latency_worsening(again * 1.05, base, 0.05).verdict == "not_enough_data"
    slow = latency_worsening(again * 2, base, 0.05)
    assert slow.verdict == "fail"
    assert slow.lower < slow.estimate < slow.upper


def test_no_difference_is_seldom_called_worse() -> None:
    random = np.random.default_rng(2)
    called = 0
    for _ in range(60):
        # slow together for a while, as a busy machine is
        load = np.repeat(random.gamma(2, 1, 30), 10)
        called += (
            latency_worsening(load * random.gamma(9, 1, 300), load * random.gamma(9, 1, 300), 0.0).verdict
            == "fail"
        )
    assert called <= 6


def test_accuracy_is_relative_to_the_others() -> None:
    mine = np.array([True] * 700 + [False] * 300)
    theirs = np.array([True] * 800 + [False] * 200)
    found = accuracy_worsening(mine, theirs, 0.05)
    assert found.estimate == pytest.approx(0.125)
    assert found.verdict == "fail"
    assert accuracy_worsening(theirs, mine, 0.05).verdict == "pass"
    assert accuracy_worsening(mine[690:710], mine[690:710], 0.05).verdict == "not_enough_data"
    nothing = accuracy_worsening(mine, np.zeros(1000, dtype=bool), 0.05)
    assert nothing.verdict == "not_enough_data"
    assert "no case right" in nothing.reason
