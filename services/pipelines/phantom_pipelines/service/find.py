"""Look up or refuse by name."""

from __future__ import annotations

from phantom_pipelines.domain import suites
from phantom_pipelines.domain.execution import Execution
from phantom_pipelines.domain.pipeline import Pipeline
from phantom_pipelines.domain.suites import Suite
from phantom_pipelines.service.ports import Reads, Work
from phantom_platform.errors import NotFound


async def pipeline(reads: Reads, workspace: str, name: str) -> Pipeline:
    """By id or name. `NotFound` `pipeline_not_found`."""
    return _pipeline(await reads.pipeline(workspace, name), name)


async def locked_pipeline(tx: Work, workspace: str, name: str) -> Pipeline:
    """Ours until the transaction ends."""
    return _pipeline(await tx.lock_pipeline(workspace, name), name)


async def execution(reads: Reads, workspace: str, execution_id: str) -> Execution:
    """`NotFound` `execution_not_found`."""
    return _execution(await reads.execution(workspace, execution_id), execution_id)


async def locked_execution(tx: Work, workspace: str, execution_id: str) -> Execution:
    """Ours until the transaction ends."""
    return _execution(await tx.lock_execution(workspace, execution_id), execution_id)


async def suite(reads: Reads, workspace: str, name: str) -> Suite:
    """With or without the ending `_tests`. `NotFound` `test_suite_not_found`."""
    found = suites.meant(name, await reads.suites_named(workspace, suites.names_meant(name)))
    if found is None:
        raise NotFound(
            f"there is no test suite {name!r}; list them, or create it first",
            code="test_suite_not_found",
            name=name,
        )
    return found


def among_environments(name: str, known: list[str]) -> None:
    """Raise `NotFound` `environment_not_found` unless it is there."""
    if name not in known:
        raise NotFound(
            f"there is no environment {name!r}; there are {', '.join(known) or 'none'}",
            code="environment_not_found",
            environment=name,
        )


def _pipeline(found: Pipeline | None, name: str) -> Pipeline:
    if found is None:
        raise NotFound(f"there is no pipeline {name!r}", code="pipeline_not_found", pipeline_id=name)
    return found


def _execution(found: Execution | None, execution_id: str) -> Execution:
    if found is None:
        raise NotFound(
            f"there is no execution {execution_id!r}", code="execution_not_found", execution_id=execution_id
        )
    return found
