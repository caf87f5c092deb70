"""What is asked: one row each in the table of the report, in this order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A measure and its bound: exactly one of `at_least` and `at_most`."""

    group: str
    measure: str
    at_least: float | None = None
    at_most: float | None = None
    digits: int = 3

    @property
    def text(self) -> str:
        """As the table says it."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def holds(self, value: float) -> bool:
        """Whether the value is within the bound."""
        if self.at_least is not None:
            return value >= self.at_least
        assert self.at_most is not None
        return value <= self.at_most


TARGETS = {
    "floor": Target("serving", "ours ÷ floor, unary, 32 in flight, requests/s", at_least=0.85),
    "direct 32": Target("serving", "ours ÷ direct, unary, 32 in flight, requests/s", at_least=3),
    "direct 128": Target("serving", "ours ÷ direct, unary, 128 in flight, requests/s", at_least=3),
    "peer": Target("peers", "ours ÷ best Python serving peer, unary, 32 in flight, requests/s", at_least=4),
    "envoy": Target("peers", "ours ÷ (Envoy before direct), unary, 32 in flight, requests/s", at_least=3),
    "cpu": Target(
        "serving",
        "CPU s per 1,000 requests, ours (gateway + model server) ÷ direct, 32 in flight",
        at_most=0.40,
    ),
    "stream": Target(
        "serving", "stream ÷ unary, both through the gateway, 32 in flight, requests/s", at_least=1.5
    ),
    "p50": Target("serving", "p50 with 1 in flight, ours ÷ direct", at_most=1.3),
    "batch": Target("serving", "32-row batches, 32 in flight, rows/s, ours ÷ direct", at_least=2),
    "logging": Target("serving", "experiment + logging on ÷ both off, requests/s", at_least=0.92),
    "workers": Target(
        "workers",
        "two gateway workers, twice the requests in flight ÷ one worker, CPU per request",
        at_most=1.05,
    ),
    "memory": Target(
        "memory", "PSS of a gateway worker after 1,000,000 requests ÷ after 10,000", at_most=1.1
    ),
    "event": Target("log", "a prediction event on the request path, µs", at_most=5),
    "models": Target("scale", "gateway CPU per request, 500 models behind it ÷ 1", at_most=1.1),
    "replicas": Target(
        "scale", "gateway CPU per request, 16 more replicas without traffic ÷ none", at_most=1.1
    ),
    "soak memory": Target(
        "soak", "soak: PSS of the gateway at the end ÷ after its first third", at_most=1.02
    ),
    "soak p99": Target("soak", "soak: p99 of the last third ÷ of the first (medians of 10 s)", at_most=1.25),
    "soak events": Target("soak", "soak: prediction events lost or doubled", at_most=0, digits=0),
    "goodput": Target("overload", "overload at 3 × capacity: goodput ÷ capacity", at_least=0.9),
    "refusal": Target("overload", "overload at 3 × capacity: p99 until a refusal, ms", at_most=50),
    # The gateway lets a call wait for a second (PHANTOM_GATEWAY_MAX_WAIT_MS), besides the model's own time.
    "overload p99": Target("overload", "overload at 3 × capacity: p99 of what is served, ms", at_most=1_500),
}
