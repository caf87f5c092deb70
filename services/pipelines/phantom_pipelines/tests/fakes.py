"""Other services, and runners, that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from phantom_pipelines.domain.suites import SuiteRun
from phantom_pipelines.domain.values import Dataset, Endpoint, Json, ModelVersion
from phantom_pipelines.runners.runner import StageContext, StageResult, SuiteOrder
from phantom_platform.errors import NotFound

DIGEST = f"sha256:{'1' * 64}"


def version(number: str = "1.0.0", model_id: str = "fraud") -> ModelVersion:
    return ModelVersion(model_id, number, DIGEST, 1, "model.json", "xgboost", "{}")


@dataclass
class Models:
    """A registry with versions of `fraud` and a few datasets."""

    versions: list[str] = field(default_factory=lambda: ["1.0.0", "1.1.0"])
    datasets: set[str] = field(default_factory=lambda: {"cases", "staging_test_data", "held-out"})

    async def version(self, workspace: str, model_id: str, number: str) -> ModelVersion:
        if model_id != "fraud":
            raise NotFound(f"there is no model {model_id}", code="model_not_found")
        if number and number not in self.versions:
            raise NotFound(f"model {model_id} has no version {number}", code="version_not_found")
        return version(number or self.versions[-1])

    async def dataset(self, workspace: str, name: str, number: str) -> Dataset:
        if name not in self.datasets:
            raise NotFound(f"there is no dataset {name}", code="dataset_not_found")
        return Dataset(name, number or "1", DIGEST, "", 10)


@dataclass
class Deployments:
    """A deployer that is only looked at."""

    found: dict[str, Endpoint] = field(default_factory=dict)
    names: list[str] = field(default_factory=lambda: ["staging", "production"])

    def add(self, deployment_id: str, environment: str = "staging", number: str = "1.0.0") -> None:
        self.found[deployment_id] = Endpoint(deployment_id, environment, "fraud", number, DIGEST, "ready")

    async def environments(self, workspace: str) -> list[str]:
        return self.names

    async def endpoints(self, workspace: str, environment: str) -> list[Endpoint]:
        return [each for each in self.found.values() if each.environment == environment]

    async def endpoint(self, workspace: str, name: str) -> Endpoint:
        if name not in self.found:
            raise NotFound(f"there is no deployment {name!r}", code="deployment_not_found")
        return self.found[name]


@dataclass
class Cases:
    """Passes `rates[endpoint]` of ten cases, all by default, after `takes_s`."""

    rates: dict[str, float] = field(default_factory=dict)
    takes_s: float = 0.0
    orders: list[SuiteOrder] = field(default_factory=list)

    async def run_suite(self, order: SuiteOrder) -> SuiteRun:
        self.orders.append(order)
        await asyncio.sleep(self.takes_s)
        rate = self.rates.get(order.endpoint.deployment_id, 1.0)
        passed = round(10 * rate)
        return SuiteRun(
            suite=order.suite.name,
            endpoint=order.endpoint.deployment_id,
            model_version=order.endpoint.version,
            cases=10,
            passed=passed,
            failed=10 - passed,
            pass_rate=rate,
            pass_rate_lower=rate / 2,
            latency_p95_ms=3.0,
            duration_s=0.1,
            dataset_digest=DIGEST,
        )


Play = Callable[[StageContext], Awaitable[StageResult]]


async def succeed(stage: StageContext) -> StageResult:
    return StageResult(True, "", "fine", {"version": stage.facts.model.version})


@dataclass
class Script:
    """A runner: plays what is written for a stage's name, else succeeds. Remembers what it was asked."""

    plays: dict[str, Play] = field(default_factory=dict)
    undoing: dict[str, Callable[[StageContext], Awaitable[str]]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    started: dict[str, asyncio.Event] = field(default_factory=dict)

    async def run(self, stage: StageContext) -> StageResult:
        name = stage.facts.stage
        self.ran.append(name)
        self.event(name).set()
        return await self.plays.get(name, succeed)(stage)

    async def undo(self, stage: StageContext) -> str:
        self.undone.append(stage.facts.stage)
        play = self.undoing.get(stage.facts.stage)
        return await play(stage) if play is not None else "taken back"

    def event(self, name: str) -> asyncio.Event:
        """Set when the stage began to run."""
        return self.started.setdefault(name, asyncio.Event())


class Counted:
    """A play of checks: each counts how often it really ran, over all attempts."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.counts: dict[str, int] = dict.fromkeys(names, 0)

    async def __call__(self, stage: StageContext) -> StageResult:
        for name in self.names:
            await stage.check(name, self._check(name))
            await stage.log(f"{name} is finished", once=name)
        return StageResult(True, "", f"{len(self.names)} checks")

    def _check(self, name: str) -> Callable[[], Awaitable[Json]]:
        async def run() -> Json:
            self.counts[name] += 1
            return {"number": self.counts[name]}

        return run


async def for_ever(stage: StageContext) -> StageResult:
    await stage.log("works")
    await asyncio.Event().wait()
    return StageResult(True)
