"""Counters that should be zero, read from the processes' own metrics: what `status` warns of."""

from __future__ import annotations

from collections.abc import Mapping

from phantom_local.stack import http_get

# Name of a counter or gauge and what a value above zero means.
COUNTERS: Mapping[str, str] = {
    "phantom_gateway_predictions_dropped_total": "prediction records were dropped: the spill was full",
}


def needs_attention(name: str, ports: Mapping[str, int]) -> list[str]:
    """One sentence for each of the counters above that is not zero in this process."""
    port = ports.get("metrics")
    if port is None:
        return []
    status, body = http_get(port, "/metrics")
    if status != 200:
        return []
    totals: dict[str, float] = {}
    for line in body.splitlines():
        metric = line.split("{")[0].split(" ")[0]
        if metric in COUNTERS:
            totals[metric] = totals.get(metric, 0.0) + float(line.rsplit(" ", 1)[1])
    return [f"{name}: {COUNTERS[metric]} ({total:g})" for metric, total in totals.items() if total > 0]
