"""The job: two versions by hand, two that judge themselves, all under traffic; then what must hold is checked."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phantom_demo import automatic, by_hand, preparing
from phantom_demo import flights as data
from phantom_demo.figures import by_revision
from phantom_demo.invariants import Share, Verdict, check_all, shares
from phantom_demo.people import People
from phantom_demo.preparing import HASH_FIELD, Say
from phantom_demo.replay import Ledger, Replay, Target
from phantom_demo.topic import answered_in_topic
from phantom_demo.training import BAD, GOOD
from phantom_ml_studio import Deployments, Monitoring
from phantom_ml_studio.values import RevisionSummary

SETTLE_S = 60.0


@dataclass(frozen=True)
class Addresses:
    """Where the stack is."""

    gateway: str
    kafka: str


@dataclass(frozen=True)
class Stage:
    """Whose job it is, against which endpoint, and what it needs of the machine."""

    people: People
    endpoint: str
    addresses: Addresses
    folder: Path
    memory: Callable[[], float]
    say: Say


@dataclass(frozen=True)
class Result:
    """What the summary tells."""

    first: by_hand.Act
    second: automatic.Act
    shares: list[Share]
    verdicts: list[Verdict]
    revisions: list[RevisionSummary]
    counts: dict[str, Any]

    @property
    def outcomes(self) -> int:
        """How many were reported."""
        return self.first.ledger.outcomes + self.second.ledger.outcomes


async def run(stage: Stage) -> Result:
    """Both acts on the flights of April to July, in time order, then the checks."""
    months = [await asyncio.to_thread(data.load, (month,)) for month in (4, 5, 6, 7)]
    flights, april = data.joined(months), len(months[0])
    target = Target(stage.endpoint, stage.addresses.gateway, stage.addresses.kafka, uuid.uuid4().hex[:8])
    stage.say(f"replaying {april:,} flights of April over gRPC, {HASH_FIELD} as unit")
    replay = await asyncio.to_thread(Replay, flights, range(april), target)
    first = await by_hand.roll_out(stage.people, stage.endpoint, replay, april, stage.memory)
    stage.say("April is known: training two more versions, and registering them")
    made = await asyncio.to_thread(preparing.train_versions, (BAD, GOOD), stage.folder, stage.say)
    await asyncio.to_thread(preparing.register, stage.people, made, stage.say)
    stage.say(
        f"May begins, at {automatic.RATE:g} calls a second; {BAD}, then {GOOD} are canaried and judge themselves"
    )
    span = range(april, len(flights))
    replay = await asyncio.to_thread(Replay, flights, span, target, automatic.RATE)
    second = await automatic.roll_out(stage.people, stage.endpoint, replay, stage.say)
    return await _judge(stage, flights, first, second)


async def _judge(stage: Stage, flights: data.Flights, first: by_hand.Act, second: automatic.Act) -> Result:
    monitoring, deployments = Monitoring(stage.people.engineer), Deployments(stage.people.engineer)
    calls = first.ledger.calls + second.ledger.calls
    counts = await _settled(monitoring, stage.endpoint, (first.ledger, second.ledger))
    versions = {call.route_version for call in calls if not call.error}
    routes = {v: await asyncio.to_thread(deployments.route, stage.endpoint, v) for v in versions}
    logged = await answered_in_topic(stage.addresses.kafka, stage.endpoint)
    summary = await asyncio.to_thread(monitoring.summary, stage.endpoint)
    return Result(
        first=first,
        second=second,
        shares=shares(calls, flights, routes),
        verdicts=check_all(calls, flights, routes, logged, counts["answered_calls"])
        + automatic.check(second.outcomes),
        revisions=by_revision(summary),
        counts=counts,
    )


async def _settled(monitoring: Monitoring, endpoint: str, ledgers: tuple[Ledger, ...]) -> dict[str, Any]:
    """The monitor's counts once it has seen everything, or after a minute what it has."""
    answered = sum(not call.error for each in ledgers for call in each.calls)
    outcomes = sum(each.outcomes for each in ledgers)
    give_up = time.monotonic() + SETTLE_S
    while True:
        counts = await asyncio.to_thread(monitoring.counts, endpoint)
        is_whole = counts["answered_calls"] >= answered and counts["outcomes_joined"] >= outcomes
        if is_whole or time.monotonic() > give_up:
            return counts
        await asyncio.sleep(0.2)
