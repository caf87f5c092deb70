"""Test suites against endpoints, through a gateway: what clients of the endpoint would be answered.

Cases pin the endpoint's stable version: they are then no part of a rollout's or an experiment's evidence.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from phantom_pipelines.domain.suites import FailedCase, SuiteRun
from phantom_pipelines.domain.values import Endpoint
from phantom_pipelines.runners.runner import SuiteOrder
from phantom_pipelines.runners.versions import Laboratory, Registry, schema_of
from phantom_platform.errors import DeadlineExceeded, Refused, Unavailable
from phantom_probing import cases
from phantom_probing.client import Client, Target

USUAL_GATEWAY = "127.0.0.1:8001"


class BearerTokens(Protocol):
    """The service's own token."""

    async def token(self) -> str: ...


class GatewayCases:
    """A CaseRunner. `gateway` says where one is, each time anew."""

    def __init__(
        self, registry: Registry, laboratory: Laboratory, gateway: Callable[[], str], tokens: BearerTokens
    ) -> None:
        self._registry = registry
        self._laboratory = laboratory
        self._gateway = gateway
        self._tokens = tokens

    async def run_suite(self, order: SuiteOrder) -> SuiteRun:
        """As CaseRunner. Refused `nothing_served` where the endpoint has no version yet; `Unavailable` where no gateway
        is there.
        """
        endpoint, suite = order.endpoint, order.suite
        if not endpoint.version:
            raise Refused(
                f"{endpoint.deployment_id} serves nothing yet: {endpoint.reason or endpoint.phase}",
                code="nothing_served",
            )
        version = await self._registry.version(order.workspace, endpoint.model_id, endpoint.version)
        schema = schema_of(version)
        rows = await self._laboratory.rows(
            order.workspace,
            schema,
            order.dataset or suite.dataset,
            order.dataset_version if order.dataset else suite.dataset_version,
            expected_column=suite.expected_column,
            id_column=suite.id_column,
        )
        target = await self._target(order.workspace, endpoint)
        async with Client(target, schema) as client:
            try:
                async with asyncio.timeout(order.timeout_s):
                    found = await cases.run(client, rows.spread(suite.max_cases), suite.tolerance)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"{suite.name} took longer than {order.timeout_s:g} s on {endpoint.deployment_id}; give more time, "
                    "or limit its cases",
                    code="tests_timed_out",
                ) from error
        return _as_suite_run(found, suite.name, endpoint)

    async def _target(self, workspace: str, endpoint: Endpoint) -> Target:
        metadata = (
            ("authorization", f"Bearer {await self._tokens.token()}"),
            ("phantom-workspace", workspace),
        )
        return Target(self._gateway(), endpoint.deployment_id, endpoint.version, metadata)


def _as_suite_run(found: cases.Run, suite: str, endpoint: Endpoint) -> SuiteRun:
    if (
        found.cases
        and all(each.error.startswith("unavailable") for each in found.failures)
        and not found.passed
    ):
        raise Unavailable(f"nobody answered for {endpoint.deployment_id}: {found.failures[0].error}")
    return SuiteRun(
        suite=suite,
        endpoint=endpoint.deployment_id,
        model_version=found.model_version or endpoint.version,
        cases=found.cases,
        passed=found.passed,
        failed=found.failed,
        pass_rate=found.pass_rate,
        pass_rate_lower=found.pass_rate_lower,
        latency_p95_ms=found.latency_p95_ms or 0.0,
        duration_s=found.duration_s,
        dataset_digest=found.dataset_digest,
        failures=tuple(
            FailedCase(each.case_id, each.expected, each.got, each.error) for each in found.failures
        ),
    )


def local_gateway(data_dir: Path) -> str:
    """The first gateway of the stack that runs from this data directory, else the usual port of this machine."""
    try:
        gateways = json.loads((data_dir / "run" / "stack.json").read_bytes())["gateways"]
        return str(gateways[0]["grpc"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return USUAL_GATEWAY
