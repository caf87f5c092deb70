"""Counts while serving, families when somebody asks."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from phantom_inference_gateway.ids import IdMint
from phantom_inference_gateway.metrics import BOUNDS_S, GatewayMetrics
from phantom_platform.testing.clock import FakeClock


def scraped(metrics):
    registry = CollectorRegistry()
    registry.register(metrics)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_latencies_and_versions_are_exported():
    metrics = GatewayMetrics()
    metrics.versions = lambda: {"default/f": 7}
    for status, seconds in ((0, 0.003), (0, 0.2), (14, 100.0)):
        metrics.observe("default/f", "f.1", "control", status, seconds)
    metrics.refuse("overloaded")
    metrics.retries = 3
    metrics.gauges["spill_bytes"] = ("bytes", lambda: 12.0)
    found = scraped(metrics)
    labels = (("endpoint", "f"), ("revision", "f.1"), ("variant", "control"), ("workspace", "default"))
    requests = {key[3]: value for key, value in found.items() if key[0] == "phantom_gateway_requests_total"}
    assert requests == {("status", "OK"): 2.0, ("status", "UNAVAILABLE"): 1.0}
    assert found[("phantom_gateway_latency_seconds_count", *labels)] == 3.0
    buckets = [value for key, value in found.items() if key[0] == "phantom_gateway_latency_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert len(buckets) == len(BOUNDS_S) + 1
    assert found[("phantom_gateway_route_version", ("endpoint", "f"), ("workspace", "default"))] == 7.0
    assert found[("phantom_gateway_refused_total", ("reason", "overloaded"))] == 1.0
    assert found[("phantom_gateway_retries_total",)] == 3.0
    assert found[("phantom_gateway_spill_bytes",)] == 12.0


def test_a_revision_s_series_are_forgotten_an_hour_after_it_left_the_route():
    clock = FakeClock()
    metrics, routed = GatewayMetrics(clock), {("default/f", "f.1"), ("default/f", "f.2")}
    metrics.routed = lambda: routed

    def known():
        return {dict(key[1:])["revision"] for key in scraped(metrics) if "requests_total" in key[0]}

    for revision in ("f.1", "f.2"):
        metrics.observe("default/f", revision, "control", 0, 0.1)
    clock.advance(7200)
    assert known() == {"f.1", "f.2"}
    routed.discard(("default/f", "f.1"))
    assert known() == {"f.1", "f.2"}
    clock.advance(3599)
    assert known() == {"f.1", "f.2"}
    clock.advance(1)
    assert known() == {"f.2"}
    assert len(metrics._series) == 1


def test_one_that_comes_back_in_time_is_kept():
    clock = FakeClock()
    metrics, routed = GatewayMetrics(clock), {("default/f", "f.1")}
    metrics.routed = lambda: routed
    metrics.observe("default/f", "f.1", "control", 0, 0.1)
    routed.clear()
    scraped(metrics)
    clock.advance(3000)
    routed.add(("default/f", "f.1"))
    scraped(metrics)
    routed.clear()
    scraped(metrics)
    clock.advance(3000)
    assert ("phantom_gateway_requests_total", ("endpoint", "f"), ("revision", "f.1"), ("status", "OK"),
            ("variant", "control"), ("workspace", "default")) in scraped(metrics)  # fmt: skip


def test_series_are_forgotten_where_nobody_scrapes():
    clock = FakeClock()
    metrics = GatewayMetrics(clock)
    for number in range(50):
        metrics.routed = lambda number=number: {("default/f", f"f.{number}")}
        metrics.observe("default/f", f"f.{number}", "control", 0, 0.1)
        clock.advance(3600)
    assert len(metrics._series) <= 3


def test_ids_are_version_7_in_order_of_time_and_distinct():
    import uuid

    mint = IdMint()
    made = [uuid.UUID(bytes=mint(1_700_000_000_000 + n // 100)) for n in range(5000)]
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert len(set(made)) == 5000
    assert made[0].int >> 80 == 1_700_000_000_000
    assert [each.int >> 80 for each in made] == sorted(each.int >> 80 for each in made)
