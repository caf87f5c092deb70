"""The second act: versions that are canaried, judged, and rolled back or promoted without anybody's hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phantom_demo.invariants import Verdict
from phantom_demo.people import People
from phantom_demo.preparing import MODEL
from phantom_demo.replay import Ledger, Replay
from phantom_demo.training import BAD, GOOD
from phantom_ml_studio import CanaryDeployment

# Enough for the evidence, and slow enough for two cores to watch it.
RATE = 400.0
PATIENCE_S = 240.0
_POLL_S = 0.5
_STRATEGY = {
    "target_percentage": 100,
    "increment_interval_minutes": 0.25,
    "rollback_window_minutes": 0.15,
    "analysis_interval_seconds": 10,
    "success_criteria": {
        "error_rate_threshold": 0.01,
        "latency_p95_threshold": 500,
        "minimum_requests": 1000,
        # Everything shares this machine: a little slower is no difference here.
        "latency_tolerance": 0.5,
    },
    "auto_rollback": {"enabled": True, "failure_threshold": 3, "rollback_percentage": 0},
}
SHARES = {
    BAD: {"initial_percentage": 20, "increment_percentage": 20},
    GOOD: {"initial_percentage": 30, "increment_percentage": 40},
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended by itself."""

    version: str
    state: str
    criterion: str
    reason: str
    elapsed_s: float
    candidate_requests: int
    candidate: str
    # When a rollback was decided, unix seconds; None where none was.
    decided_at: float | None = None


@dataclass
class Act:
    """The traffic, and what became of each version."""

    ledger: Ledger
    outcomes: list[Outcome]

    def taken_back_ms(self, outcome: Outcome) -> float | None:
        """From the decision to the last call sent to the bad revision; None without a rollback."""
        if outcome.decided_at is None:
            return None
        sent = [call.sent_at for call in self.ledger.calls if call.revision == outcome.candidate]
        return (max(sent, default=outcome.decided_at) - outcome.decided_at) * 1000


async def roll_out(people: People, endpoint: str, replay: Replay, say: Say) -> Act:
    """The bad version, then the good one, while flights go on being asked for and landing."""
    async with asyncio.TaskGroup() as group:
        traffic = group.create_task(replay.run())
        try:
            outcomes = [
                await asyncio.to_thread(_canary, people, endpoint, version, say) for version in (BAD, GOOD)
            ]
        finally:
            replay.stop()
    return Act(traffic.result(), outcomes)


def check(outcomes: Sequence[Outcome]) -> list[Verdict]:
    """What each version that judged itself must have come to."""
    by_version = {each.version: each for each in outcomes}
    bad, good = by_version[BAD], by_version[GOOD]
    return [
        Verdict(
            f"{BAD} was rolled back by itself, by log loss",
            bad.state == "rolled_back" and bad.criterion == "log_loss",
            f"{bad.state} after {bad.elapsed_s:.0f} s and {bad.candidate_requests:,} of its requests: {bad.reason}",
        ),
        Verdict(
            f"{GOOD} went to 100 % by itself",
            good.state == "succeeded",
            f"{good.state} after {good.elapsed_s:.0f} s and {good.candidate_requests:,} of its requests: {good.reason}",
        ),
    ]


def _canary(people: People, endpoint: str, version: str, say: Say) -> Outcome:
    """Start it, and tell what it does until it has ended."""
    canaries = CanaryDeployment(people.engineer)
    began, told = time.monotonic(), 0
    made = canaries.create_deployment(
        model_id=MODEL,
        version=version,
        environment="production",
        canary_strategy=_STRATEGY | SHARES[version],
        deployment_id=endpoint,
    )
    for warning in made.warnings:
        say(f"  {version}: warning: {warning}")
    while True:
        status = canaries.get_deployment_status(made.id)
        for each in status.transitions[told:]:
            say(f"  {version}: {each.to_state} at {each.percentage:g} %: {each.reason}")
        told = len(status.transitions)
        elapsed_s = time.monotonic() - began
        if status.ended_at is not None or elapsed_s > PATIENCE_S:
            decided = [t.at for t in status.transitions if t.to_state == "rolling_back" and t.at is not None]
            return Outcome(
                version,
                status.state,
                status.fired_criterion,
                status.reason,
                elapsed_s,
                status.requests,
                status.candidate,
                decided[0].timestamp() if decided else None,
            )
        time.sleep(_POLL_S)
