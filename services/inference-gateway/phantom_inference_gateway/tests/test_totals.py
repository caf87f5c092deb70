"""Workers' metrics as one: sums never fall, gauges are combined as their table says, the text is Prometheus'."""

import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from phantom_inference_gateway.channel import read, written
from phantom_inference_gateway.domain.totals import FORGET_AFTER_S, Family, Totals
from phantom_inference_gateway.membership import families
from phantom_inference_gateway.observation import exposition
from phantom_platform.testing.clock import FakeClock

RULES = {"version": "least", "stale": "greatest"}


class Process:
    """What a worker's process counts."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls", ["endpoint"], registry=self.registry)
        self.latency = Histogram("latency", "Latency", registry=self.registry, buckets=(0.1, 1.0))
        self.version = Gauge("version", "Version", ["endpoint"], registry=self.registry)
        self.stale = Gauge("stale", "Stale", registry=self.registry)
        self.busy = Gauge("busy", "Busy", registry=self.registry)

    def call(self, endpoint="e", seconds=0.05):
        self.calls.labels(endpoint).inc()
        self.latency.observe(seconds)

    def told(self):
        return read(written(families(self.registry)))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def totals(clock):
    return Totals(clock.monotonic, RULES)


def values(totals):
    text = exposition(totals.families()).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_and_histograms_are_summed(totals):
    one, two = Process(), Process()
    one.call("a", 0.05)
    two.call("a", 0.5)
    two.call("b", 5.0)
    totals.take("0", one.told())
    totals.take("1", two.told())
    found = values(totals)
    assert found["calls_total", "a"] == 2
    assert found["calls_total", "b"] == 1
    assert [found["latency_bucket", bound] for bound in ("0.1", "1.0", "+Inf")] == [1, 2, 3]
    assert (found["latency_count",], found["latency_sum",]) == (3, pytest.approx(5.55))


def test_gauges_are_summed_or_the_least_or_the_greatest_and_say_which(totals):
    for worker, (version, stale, busy) in {"0": (3, 1, 4), "1": (2, 0, 5)}.items():
        process = Process()
        process.version.labels("e").set(version)
        process.stale.set(stale)
        process.busy.set(busy)
        totals.take(worker, process.told())
    found = values(totals)
    assert (found["version", "e"], found["stale",], found["busy",]) == (2, 1, 9)
    text = exposition(totals.families()).decode()
    assert "# HELP version Version (the least of the workers')\n" in text
    assert "# HELP busy Busy (sum of the workers)\n" in text


def test_what_a_dead_worker_counted_stays_and_its_gauges_go(totals):
    one, two = Process(), Process()
    for process in (one, two):
        process.call()
        process.busy.set(1)
    totals.take("0", one.told())
    totals.take("1", two.told())
    totals.bury("0")
    assert values(totals)["calls_total", "e"] == 2
    assert values(totals)["busy",] == 1
    successor = Process()
    successor.call()
    totals.take("0", successor.told())
    assert values(totals)["calls_total", "e"] == 3


def test_a_worker_that_does_not_answer_keeps_its_counts_and_has_no_gauges(totals):
    one = Process()
    one.call()
    totals.take("0", one.told())
    totals.miss("0")
    found = values(totals)
    assert found["calls_total", "e"] == 1
    assert ("busy",) not in found
    one.call()
    totals.take("0", one.told())
    assert values(totals)["calls_total", "e"] == 2


def test_no_sum_ever_falls_whatever_dies_forgets_or_is_silent(totals):
    chance = random.Random(11)
    processes = {name: Process() for name in "012"}
    before, expected = {}, 0
    for _ in range(400):
        name = chance.choice("012")
        match chance.randrange(6):
            case 0:
                totals.take(name, processes[name].told())
                totals.bury(name)
                processes[name] = Process()
            case 1:
                totals.miss(name)
            case 2:
                # Forgotten, as it is where a revision has been away for an hour.
                totals.take(name, processes[name].told())
                processes[name].calls.clear()
                totals.take(name, processes[name].told())
            case _:
                processes[name].call(chance.choice("ab"), chance.choice((0.05, 0.5, 5.0)))
                expected += 1
                totals.take(name, processes[name].told())
        found = {
            key: value for key, value in values(totals).items() if key[0].startswith(("calls", "latency"))
        }
        assert not [key for key, value in before.items() if found[key] < value]
        assert found.get(("latency_bucket", "0.1"), 0) <= found.get(("latency_bucket", "1.0"), 0)
        assert found.get(("latency_bucket", "+Inf"), 0) == found.get(("latency_count",), 0)
        before = found
    assert before["latency_count",] == expected
    assert before["calls_total", "a"] + before["calls_total", "b"] == expected


def test_a_histogram_that_began_again_between_two_readings_stays_one(totals):
    first, second = Process(), Process()
    for _ in range(5):
        first.call(seconds=0.5)
    totals.take("0", first.told())
    # More in the first bucket than before, fewer in all.
    for _ in range(3):
        second.call(seconds=0.05)
    totals.take("0", second.told())
    found = values(totals)
    assert [found["latency_bucket", bound] for bound in ("0.1", "1.0", "+Inf")] == [3, 8, 8]


def test_what_nobody_has_told_of_for_an_hour_is_forgotten(totals, clock):
    one, two = Process(), Process()
    one.call("old")
    two.call("kept")
    totals.take("0", one.told())
    totals.take("1", two.told())
    totals.bury("0")
    clock.advance(FORGET_AFTER_S - 1)
    assert values(totals)["calls_total", "old"] == 1
    clock.advance(2)
    found = values(totals)
    assert ("calls_total", "old") not in found
    assert found["calls_total", "kept"] == 1


def test_labels_and_help_are_escaped():
    family = Family("g", "gauge", "a\nb\\", {("g", (("l", 'x"\n\\y'),)): float("inf")})
    (read_back,) = text_string_to_metric_families(exposition([family]).decode())
    assert read_back.documentation == "a\nb\\"
    assert [(each.labels["l"], each.value) for each in read_back.samples] == [('x"\n\\y', float("inf"))]
