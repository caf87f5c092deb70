"""What the parts of the process count, handed to the metrics; and what of it somebody should look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from phantom_inference_gateway.acks import Acks
from phantom_inference_gateway.metrics import GatewayMetrics
from phantom_inference_gateway.pool import Pool
from phantom_inference_gateway.prediction_log import PredictionLog
from phantom_inference_gateway.routes import Routes
from phantom_inference_gateway.service import Gateway


class Followed(Protocol):
    """A projection's records that could not be applied: key → version."""

    bad: dict[str, int]


@dataclass(frozen=True)
class Sources:
    """The parts that count."""

    gateway: Gateway
    pool: Pool
    records: PredictionLog
    routes: Routes
    projections: tuple[Followed, ...]
    acks: Acks


def wire(metrics: GatewayMetrics, sources: Sources) -> None:
    """Let a scrape read them."""
    gateway, pool, records, acks = sources.gateway, sources.pool, sources.records, sources.acks
    stats = records.stats
    metrics.versions = lambda: {key: each.applied for key, each in sources.routes.progress().items()}
    metrics.routed = sources.routes.revisions
    metrics.waits = pool.waits
    counters: Mapping[str, tuple[str, Callable[[], float]]] = {
        "shadow_answered": (
            "Copies of calls that shadow revisions answered, in whichever way",
            lambda: gateway.shadows.answered,
        ),
        "shadow_dropped": (
            "Copies of calls left out, since the shadow revision or the gateway had too much to do",
            lambda: gateway.shadows.dropped,
        ),
        "retries_refused": ("Retries that did not fit the budget", lambda: gateway.budget.refused),
        "ejections": ("Times a replica was left out", lambda: pool.ejections),
        "frames": ("Frames written to model servers", lambda: pool.frames()[0]),
        "frame_calls": ("Calls in them", lambda: pool.frames()[1]),
        "draining_records_refused": (
            "Route records of draining replicas that were not valid, or another endpoint's",
            lambda: sources.routes.refused_records,
        ),
        "oip_unlogged": ("Plain OIP answers logged without features", lambda: pool.unlogged),
        "predictions_logged": ("Records given to the prediction log", lambda: stats.records),
        "predictions_dropped": ("Records lost: the spill was full", lambda: stats.records_dropped),
        "batches_acknowledged": ("Prediction batches that Kafka has", lambda: stats.batches_acknowledged),
        "batches_maybe_sent": (
            "Prediction batches sent again as maybe_sent",
            lambda: stats.batches_maybe_sent,
        ),
        "batches_spilled": ("Prediction batches that went to disk first", lambda: stats.batches_spilled),
        "spill_damaged": ("Spilled batches that could not be read back", lambda: records.damaged),
        "heartbeats_failed": ("Heartbeats that Kafka did not take", lambda: acks.failed),
    }
    gauges: Mapping[str, tuple[str, Callable[[], float]]] = {
        "in_flight": ("Calls under way", lambda: gateway.in_flight),
        "shadow_in_flight": ("Copies under way", lambda: gateway.shadows.in_flight),
        "replicas_open": ("Connections to replicas that take calls", lambda: pool.counts()[0]),
        "replicas_routed": ("Connections to replicas that the routes name", lambda: pool.counts()[1]),
        "spill_bytes": ("Prediction batches on disk, bytes", lambda: records.spill_bytes),
        "batches_unacknowledged": ("Prediction batches on their way", lambda: records.unacknowledged),
        "routes_stale": ("1 while the routes may be older than Kafka's", lambda: acks.is_stale),
        "bad_records": (
            "Keys whose newest route or experiments cannot be served",
            lambda: sum(len(each.bad) for each in sources.projections),
        ),
    }
    metrics.counters.update(counters)
    metrics.gauges.update(gauges)


def needed(metrics: GatewayMetrics, sources: Sources) -> list[str]:
    """Sentences for people; empty where all is well."""
    stats = sources.records.stats
    told = [
        (stats.records_dropped, "{} prediction records were dropped: the spill was full"),
        (sources.records.spill_bytes, "{} bytes of prediction batches wait on disk for Kafka"),
        (sources.records.damaged, "{} spilled batches could not be read back"),
        (metrics.fallbacks, "{} answers fell back to the stable revision"),
        (metrics.shed, "{} calls were refused because the gateway or a replica had too much to do"),
        (sources.routes.refused_records, "{} route records of draining replicas were refused"),
        (sources.gateway.budget.refused, "{} retries did not fit the budget"),
    ]
    sentences = [text.format(count) for count, text in told if count]
    for projection in sources.projections:
        sentences += [
            f"version {version} of {key} cannot be served; the last good one is kept"
            for key, version in projection.bad.items()
        ]
    if sources.acks.serves_snapshot:
        sentences.append("the routes are from a snapshot: Kafka has not been read since this process started")
    return sentences + sources.pool.unusable()
