"""Real versions of a model in a store, a registry that knows them, and the run of a stage in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phantom_pipelines.domain import configs
from phantom_pipelines.domain.values import Dataset, Endpoint, Json, Lineage, ModelVersion
from phantom_pipelines.runners.runner import Earlier, StageFacts
from phantom_pipelines.runners.versions import Laboratory
from phantom_platform.errors import NotFound
from phantom_probing.dataset_files import Access
from phantom_probing.scratch import ScratchSettings
from phantom_probing.tests.conftest import FRAUD, PRICE, flights, keep, train

DEPENDENCIES = {"python": "3.11.9", "xgboost": "3.2.0", "numpy": "2.4.0"}


@dataclass
class Versions:
    """A registry: versions, their lineage, datasets; artifacts are in the store, or are downloaded from `away`."""

    store: Path
    versions: dict[str, ModelVersion] = field(default_factory=dict)
    lineages: dict[str, Lineage] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    away: dict[str, bytes] = field(default_factory=dict)

    def add(
        self, number: str, content: bytes, schema: Any = FRAUD, framework: str = "xgboost"
    ) -> ModelVersion:
        digest = keep(self.store, content)
        made = ModelVersion(
            "fraud", number, digest, len(content), "m.ubj", framework, schema.model_dump_json()
        )
        self.versions[number] = made
        self.lineages[number] = Lineage((), dict(DEPENDENCIES))
        return made

    def add_dataset(self, path: Path, name: str) -> None:
        digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        self.datasets[name] = Dataset(name, "1", digest, path.as_uri(), 0)

    async def version(self, workspace: str, model_id: str, version: str) -> ModelVersion:
        return self.versions[version]

    async def lineage(self, workspace: str, model_id: str, version: str) -> Lineage:
        return self.lineages.get(version, Lineage())

    async def dataset(self, workspace: str, name: str, version: str) -> Dataset:
        if name not in self.datasets:
            raise NotFound(f"there is no dataset {name}", code="dataset_not_found")
        return self.datasets[name]

    async def download(self, workspace: str, digest: str, target: Path) -> None:
        await asyncio.to_thread(target.write_bytes, self.away[digest])


class NoTokens:
    """Governance that gives a token to everybody."""

    async def issue(self, workspace: str, digest: str, subject: str) -> str:
        return "token"


@dataclass
class MemoryStage:
    """A StageContext that remembers over attempts."""

    facts: StageFacts
    finished: dict[str, Json] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @property
    def finished_checks(self) -> Mapping[str, Json]:
        return self.finished

    async def check(self, name: str, run: Callable[[], Awaitable[Json]]) -> Json:
        if name not in self.finished:
            self.finished[name] = await run()
        return self.finished[name]

    async def log(self, text: str, level: str = "info", *, once: str = "") -> None:
        if (level, text) not in self.lines:
            self.lines.append((level, text))

    async def progress(self, share: float) -> None:
        self.shares.append(share)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def again(self) -> MemoryStage:
        """The next attempt."""
        return MemoryStage(replace(self.facts, attempt=self.facts.attempt + 1), self.finished, self.lines)


def stage_of(kind: str, config: Mapping[str, Any], model: ModelVersion, *earlier: Earlier) -> MemoryStage:
    return MemoryStage(
        StageFacts(
            workspace="default",
            execution_id="e1",
            pipeline_name="p",
            stage="s",
            requested_by="ada",
            model=model,
            config=configs.read(kind, config).config,
            earlier=earlier,
            attempt=1,
            started_at=datetime.now(UTC),
        )
    )


def endpoint_of(version: ModelVersion, name: str = "fraud", environment: str = "staging") -> Endpoint:
    return Endpoint(name, environment, "fraud", version.version, version.digest, "ready")


def make_versions(root: Path) -> Versions:
    """`good`, `same` (as good in other bytes), `bad` (amounts in cents), `price` (regression)."""
    made = Versions(root / "store")
    frame, fraud = flights(2000, 1)
    made.add("good", train(FRAUD, frame, fraud))
    made.add("same", train(FRAUD, frame, fraud, max_depth=5))
    made.add("bad", train(FRAUD, frame.assign(amount=frame.amount * 100), fraud))
    sizes = frame[["amount", "hour"]].rename(columns={"amount": "size", "hour": "age"}).astype(float)
    made.add("price", train(PRICE, sizes, sizes["size"].to_numpy()), PRICE)
    cases, truth = flights(400, 9)
    truth[::17] = 1 - truth[::17]  # nobody is right about everything
    cases["actual_fraud"] = [str(bool(each)).lower() for each in truth]
    cases.insert(0, "case", [f"c{number}" for number in range(len(cases))])
    cases.to_csv(root / "cases.csv", index=False)
    made.add_dataset(root / "cases.csv", "held-out")
    return made


def make_laboratory(versions: Versions, root: Path) -> Laboratory:
    settings = ScratchSettings(root / "scratch", versions.store, root / "downloads", ready_timeout_s=60)
    return Laboratory(settings, versions, NoTokens(), Access((versions.store.parent,)))
