"""Cases of requests and expectations, against one endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from phantom_platform.errors import (
    Forbidden,
    NotFound,
    PhantomError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from phantom_probing.client import Answers, Client, decode
from phantom_probing.datasets import Labelled
from phantom_probing.measure import QUANTILES_FROM, quantile
from phantom_statistics.intervals import wilson

CONFIDENCE = 0.95
MAX_FAILURES = 20
"""Failed cases that are told."""

IN_FLIGHT = 4
AGAIN_AFTER_S = 0.2
NOT_OF_A_CASE = (NotFound, Forbidden, Unauthenticated, Unsupported)
"""Errors that every case would meet: they are raised."""


@dataclass(frozen=True)
class Failure:
    """A case that did not pass; `error` says why there is no answer, where there is none."""

    case_id: str
    expected: str
    got: str
    error: str = ""


@dataclass(frozen=True)
class Run:
    """Figures of all cases, each a request of one row."""

    cases: int
    passed: int
    pass_rate: float
    pass_rate_lower: float  # of the 95 % Wilson interval
    latency_p95_ms: float | None  # None below 73 answers
    duration_s: float
    model_version: str  # of the answers; several with commas between
    dataset_digest: str
    failures: tuple[Failure, ...] = ()

    @property
    def failed(self) -> int:
        return self.cases - self.passed


async def run(
    client: Client,
    cases: Labelled,
    tolerance: float = 0.0,
    in_flight: int = IN_FLIGHT,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """All cases. One that is refused or not answered has failed; what would meet every case is raised."""
    running = _Running(client, cases, tolerance, progress)
    start = time.perf_counter()
    places = iter(range(cases.rows.count))

    async def go_on() -> None:
        for place in places:
            await running.one(place)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(go_on())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return running.figures(time.perf_counter() - start)


@dataclass
class _Running:
    client: Client
    cases: Labelled
    tolerance: float
    progress: Callable[[float], None] | None
    took_ms: list[float] = field(default_factory=list)
    passed: int = 0
    done: int = 0
    versions: set[str] = field(default_factory=set)
    failures: dict[int, Failure] = field(default_factory=dict)

    async def one(self, place: int) -> None:
        expected = shown(self.cases.expected[place])
        try:
            body, took_ms = await self._call(self.client.request(self.cases.rows.part(place, place + 1)))
            answers = decode(body, self.client.schema)
        except NOT_OF_A_CASE:
            raise
        except PhantomError as error:
            self.failures[place] = Failure(
                self.cases.ids[place], expected, "", f"{error.code}: {error.message}"[:300]
            )
        else:
            self.took_ms.append(took_ms)
            self.versions.add(answers.model_version)
            if passes(answers, self.cases, place, self.tolerance):
                self.passed += 1
            else:
                got = answers.labels[0] if answers.labels else shown(answers.scores[0])
                self.failures[place] = Failure(self.cases.ids[place], expected, got)
        self.done += 1
        if self.progress is not None and self.done % 50 == 0:
            self.progress(self.done / self.cases.rows.count)

    async def _call(self, body: bytes) -> tuple[bytes, float]:
        try:
            return await self.client.timed(body)
        except Unavailable:
            await asyncio.sleep(AGAIN_AFTER_S)
            return await self.client.timed(body)

    def figures(self, duration_s: float) -> Run:
        count = self.cases.rows.count
        is_enough = len(self.took_ms) >= QUANTILES_FROM
        return Run(
            cases=count,
            passed=self.passed,
            pass_rate=self.passed / count if count else 0.0,
            pass_rate_lower=wilson(self.passed, count, CONFIDENCE).lower,
            latency_p95_ms=quantile(np.array(self.took_ms), 0.95) if is_enough else None,
            duration_s=duration_s,
            model_version=", ".join(sorted(self.versions)),
            dataset_digest=self.cases.digest,
            failures=tuple(self.failures[place] for place in sorted(self.failures)[:MAX_FAILURES]),
        )


def passes(answers: Answers, cases: Labelled, place: int, tolerance: float, row: int = 0) -> bool:
    """Whether the answer's row is what the case expects: the label, or a value at most `tolerance` away."""
    expected = cases.expected[place]
    if answers.labels is not None:
        return answers.labels[row] == expected
    return bool(abs(float(answers.scores[row]) - float(expected)) <= tolerance)


def shown(value: object) -> str:
    """A label, or a number shortly."""
    return value if isinstance(value, str) else f"{float(value):.6g}"  # type: ignore[arg-type]
