"""Stages of type `validation`: is this version harmless, servable, good and fast enough?

Each check is kept as soon as it has ended, so that an interrupted stage goes on with the next one. All are run, and all
that failed are told; only what the security scan objects to is not run at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from phantom_contracts.schema import ModelSchema
from phantom_pipelines.domain.configs.deployment import Replay
from phantom_pipelines.domain.configs.validation import ValidationConfig
from phantom_pipelines.domain.values import Endpoint, Json
from phantom_pipelines.runners import dependencies, provided
from phantom_pipelines.runners.checks import FAIL, NOT_ASSESSED, PASS, finite, tell
from phantom_pipelines.runners.runner import StageContext, StageFacts, StageResult
from phantom_pipelines.runners.scans import Scans
from phantom_pipelines.runners.versions import Laboratory, Registry, schema_of
from phantom_platform.errors import NotFound, Refused
from phantom_probing import apart, measure, quality
from phantom_probing.client import Answers, Client, concatenated
from phantom_probing.datasets import Labelled
from phantom_probing.replay import Order, replay
from phantom_probing.replay_report import Limits
from phantom_probing.rows import Rows, invented
from phantom_runtimes.errors import Invalid as UnknownFormat
from phantom_runtimes.formats import sniff

ROWS_A_CALL = 512
MAX_FINDINGS = 50
"""Of a scan that are kept with the stage."""


class Deployments(Protocol):
    """Where past requests are."""

    async def endpoints(self, workspace: str, environment: str) -> list[Endpoint]: ...
    async def endpoint(self, workspace: str, name: str) -> Endpoint: ...


@dataclass(frozen=True)
class ValidationSettings:
    """How long is measured, and what is known to be bad."""

    kafka_bootstrap: str
    advisories: Path | None = None
    advisories_max_age_days: int = 0
    latency_calls: int = 1000
    throughput_s: float = 10.0
    warm_up_s: float = 2.0


Check = Callable[["Subject"], Awaitable[Json]]


class ValidationRunner:
    """The checks, by name."""

    def __init__(
        self,
        registry: Registry,
        deployments: Deployments,
        laboratory: Laboratory,
        settings: ValidationSettings,
    ) -> None:
        self._registry = registry
        self._deployments = deployments
        self._laboratory = laboratory
        self._settings = settings
        self._scans = Scans()
        self._checks: dict[str, Check] = {
            "security_scan": self._security_scan,
            "dependency_check": self._dependency_check,
            "accuracy": self._accuracy,
            "latency": self._latency,
            "throughput": self._throughput,
            "replay": self._replay,
        }

    async def run(self, stage: StageContext) -> StageResult:
        config = _config(stage.facts)
        found: dict[str, Json] = {}
        async with AsyncExitStack() as stack:
            subject = Subject(stage, config, self._laboratory, stack)
            for number, name in enumerate(config.checks):
                found[name] = await stage.check(name, partial(self._one, name, subject))
                await tell(stage, name, found[name])
                await stage.progress((number + 1) / len(config.checks))
                if name == "security_scan" and found[name]["verdict"] == FAIL:
                    break
        return _result(config, found)

    async def undo(self, stage: StageContext) -> str:
        """What ran here has ended with its task."""
        return ""

    async def _one(self, name: str, subject: Subject) -> Json:
        answer: Json = finite(await self._checks[name](subject))
        return answer

    # -- what is not run ----------------------------------------------------------

    async def _security_scan(self, subject: Subject) -> Json:
        facts = subject.stage.facts
        async with self._laboratory.artifact(facts.workspace, facts.model) as path:
            report = await self._scans.scan(path, facts.model.framework, subject.schema_or_none())
        if report.sha256 and f"sha256:{report.sha256}" != facts.model.digest:
            words = f"the file has sha256 {report.sha256}, and {facts.model.digest} was registered"
            return {"verdict": FAIL, "reason": words}
        worst = [each for each in report.findings if each.severity != "info"]
        why = "; ".join(report.unassessed.values())
        words = f"{worst[0].id} at {worst[0].location}: {worst[0].evidence}" if worst else why
        more = f" and {len(worst) - 1} more" if len(worst) > 1 else ""
        return {
            "verdict": FAIL if report.blocks else PASS,
            "reason": words[:500] + more or f"{report.format}, nothing found",
            "format": report.format,
            "verdicts": dict(report.verdicts),
            "findings": [asdict(each) for each in report.findings[:MAX_FINDINGS]],
        }

    async def _dependency_check(self, subject: Subject) -> Json:
        facts, settings = subject.stage.facts, self._settings
        lineage = await self._registry.lineage(facts.workspace, facts.model.model_id, facts.model.version)
        advisories = await asyncio.to_thread(
            provided.advisories, settings.advisories, subject.stage.now(), settings.advisories_max_age_days
        )
        async with self._laboratory.artifact(facts.workspace, facts.model) as path:
            is_pickle = await asyncio.to_thread(_is_pickle, path)
        found = dependencies.check(
            dependencies.Subject(facts.model.framework, lineage.dependencies, is_pickle),
            await asyncio.to_thread(provided.runtime),
            advisories,
            subject.config.require_advisories,
        )
        words = "; ".join(each.words for each in found.failures[:5])
        return {
            "verdict": FAIL if found.failures else PASS,
            "reason": words or f"{len(lineage.dependencies)} recorded dependencies fit",
            "advisories": found.advisories,
            "findings": [asdict(each) for each in found.findings[:MAX_FINDINGS]],
            "warnings": [each.words for each in found.findings if each.severity == "warning"][:MAX_FINDINGS],
        }

    # -- what is run --------------------------------------------------------------

    async def _accuracy(self, subject: Subject) -> Json:
        limit = subject.config.min_accuracy or 0.0
        if subject.schema.task == "regression":
            raise Refused(
                "a regression model has no accuracy; leave out min_accuracy, and test it by a suite with a tolerance",
                code="accuracy_of_regression",
            )
        rows = await self._labelled(subject)
        assert isinstance(rows.expected, list)  # of a classifier
        answers = await _answers(await subject.client(), rows.rows)
        found = quality.classification(
            rows.expected, answers.labels or [], answers.probabilities, subject.schema.class_labels
        )
        words = f"accuracy {found.accuracy:.4f} on {found.rows:,} rows, at least {found.lower:.4f}"
        return {
            **asdict(found),
            "verdict": PASS if found.lower >= limit else FAIL,
            "reason": f"{words} (95 %); the limit is {limit:g}",
            "limit": limit,
            "dataset_digest": rows.digest,
        }

    async def _labelled(self, subject: Subject) -> Labelled:
        facts, config = subject.stage.facts, subject.config
        name, version = config.dataset, config.dataset_version
        if not name:
            name, version = await self._evaluation_dataset(facts)
        await subject.stage.log(f"evaluating on dataset {name} {version}".rstrip(), once="dataset")
        return await self._laboratory.rows(
            facts.workspace, subject.schema, name, version, expected_column=config.expected_column
        )

    async def _evaluation_dataset(self, facts: StageFacts) -> tuple[str, str]:
        lineage = await self._registry.lineage(facts.workspace, facts.model.model_id, facts.model.version)
        found = [(each.dataset, each.version) for each in lineage.sources if each.role == "evaluation"]
        if len(found) == 1:
            return found[0]
        if found:
            raise Refused(
                f"the lineage names {len(found)} datasets with role evaluation; name the one to use as `dataset`",
                code="evaluation_dataset_ambiguous",
            )
        raise Refused(
            "min_accuracy needs a dataset: name one as `dataset`, or record one in the version's lineage with role "
            "evaluation",
            code="no_evaluation_dataset",
        )

    async def _latency(self, subject: Subject) -> Json:
        limit = subject.config.max_latency_ms or 0.0
        client, requests = await subject.requests()
        async with self._laboratory.timing:
            found = await apart.latency(client.target, requests, calls=self._settings.latency_calls)
        return {
            **asdict(found),
            "verdict": PASS if found.p95_ms <= limit else FAIL,
            "reason": f"p95 {found.p95_ms:.3g} ms of {found.calls:,} single rows; the limit is {limit:g} ms",
            "limit": limit,
        }

    async def _throughput(self, subject: Subject) -> Json:
        limit, settings = subject.config.min_throughput or 0.0, self._settings
        client, requests = await subject.requests()
        async with self._laboratory.timing:
            found = await apart.throughput(
                client.target, requests, duration_s=settings.throughput_s, warm_up_s=settings.warm_up_s
            )
        words = f"{found.requests_per_s:,.0f} requests/s with {found.in_flight} in flight"
        return {
            **asdict(found),
            "verdict": PASS if found.requests_per_s >= limit else FAIL,
            "reason": f"{words}; the limit is {limit:,.0f}",
            "limit": limit,
        }

    async def _replay(self, subject: Subject) -> Json:
        asked = subject.config.replay
        assert asked is not None  # it is among the checks
        facts = subject.stage.facts
        endpoint = await self._endpoint(subject, asked.environment, asked.endpoint)
        order = Order(
            endpoint.deployment_id,
            asked.replay.requests,
            facts.workspace,
            frozenset(endpoint.aliases),
        )
        client = await subject.client()
        async with self._laboratory.timing:
            found = await replay(
                self._settings.kafka_bootstrap, order, client, _limits(asked.replay), subject.stage.now()
            )
        is_unknown = found.verdict == "not_enough_data"
        verdict = FAIL if found.verdict == "fail" or (is_unknown and asked.replay.has_limits) else PASS
        return {
            **asdict(found),
            "verdict": NOT_ASSESSED if is_unknown and verdict == PASS else verdict,
            "endpoint": endpoint.deployment_id,
        }

    async def _endpoint(self, subject: Subject, environment: str, endpoint: str) -> Endpoint:
        facts = subject.stage.facts
        if endpoint:
            return await self._deployments.endpoint(facts.workspace, endpoint)
        everything = await self._deployments.endpoints(facts.workspace, environment)
        found = [each for each in everything if each.model_id == facts.model.model_id]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(
                f"{facts.model.model_id} has no deployment in {environment}, so it has no past requests to replay",
                code="deployment_not_found",
            )
        raise Refused(
            f"{facts.model.model_id} has {len(found)} deployments in {environment}: "
            f"{', '.join(each.deployment_id for each in found)}; name the one that is meant as replay.endpoint",
            code="deployment_ambiguous",
        )


class Subject:
    """The version under validation. Its server is started by the first check that needs one."""

    def __init__(
        self, stage: StageContext, config: ValidationConfig, laboratory: Laboratory, stack: AsyncExitStack
    ) -> None:
        self.stage = stage
        self.config = config
        self._laboratory = laboratory
        self._stack = stack
        self._client: Client | None = None

    @property
    def schema(self) -> ModelSchema:
        return schema_of(self.stage.facts.model)

    def schema_or_none(self) -> ModelSchema | None:
        return self.schema if self.stage.facts.model.schema_json else None

    async def client(self) -> Client:
        if self._client is None:
            facts = self.stage.facts
            serving = self._laboratory.serving(facts.workspace, facts.model)
            self._client = await self._stack.enter_async_context(serving)
        return self._client

    async def requests(self) -> tuple[Client, list[bytes]]:
        """Single rows to measure with, as the schema allows them."""
        client = await self.client()
        return client, measure.single_rows(client, invented(self.schema, measure.MAX_BODIES))


async def _answers(client: Client, rows: Rows) -> Answers:
    parts = [
        await client.infer(rows.part(start, start + ROWS_A_CALL))
        for start in range(0, rows.count, ROWS_A_CALL)
    ]
    return concatenated(parts)


def _limits(asked: Replay) -> Limits:
    return Limits(
        max_disagreement=asked.max_disagreement,
        max_distribution_distance=asked.max_distribution_distance,
        max_latency_p95_ms=asked.max_latency_p95_ms,
        quality_margin=asked.quality_margin,
    )


def _is_pickle(path: Path) -> bool:
    try:
        return sniff(path) == "pickle"
    except UnknownFormat:
        return False


def _result(config: ValidationConfig, found: dict[str, Json]) -> StageResult:
    failed = [name for name, each in found.items() if each["verdict"] == FAIL]
    result: Json = {"checks": {name: each["verdict"] for name, each in found.items()}}
    left = [name for name in config.checks if name not in found]
    if left:
        result["not_run"] = left
    if failed:
        words = "; ".join(f"{name}: {found[name]['reason']}" for name in failed)
        return StageResult(False, f"{failed[0]}_failed", words, result)
    return StageResult(
        True, "", "; ".join(f"{name}: {each['reason']}" for name, each in found.items()), result
    )


def _config(facts: StageFacts) -> ValidationConfig:
    assert isinstance(facts.config, ValidationConfig)  # the type decides the runner
    return facts.config
