"""Pipelines and test suites: made by people, read by executions."""

from __future__ import annotations

from dataclasses import replace

from phantom_pipelines.domain.pipeline import Pipeline, Stage, add_stage
from phantom_pipelines.domain.suites import Suite, check_suite, same_or_refused
from phantom_pipelines.domain.values import Call, Listed, Page
from phantom_pipelines.service import find
from phantom_pipelines.service.ports import Models, Store, Work
from phantom_platform import audit
from phantom_platform.errors import AlreadyExists
from phantom_platform.idempotency import Once
from phantom_platform.ids import new_id


class Pipelines:
    """Use cases on pipelines."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._once = Once(store)

    async def create(self, call: Call, name: str, description: str) -> Pipeline:
        """An empty one. `AlreadyExists` `pipeline_exists`."""
        audit.resource(f"{call.workspace}/{name}")

        async def work(tx: Work) -> Pipeline:
            pipeline = Pipeline(new_id(), name, description, (), tx.now, call.principal)
            if not await tx.add_pipeline(call.workspace, pipeline):
                raise AlreadyExists(
                    f"there is a pipeline {name} already; give this one another name, or add stages to that one",
                    code="pipeline_exists",
                    name=name,
                )
            return pipeline

        return await self._once.run(call, Pipeline, work)

    async def add_stage(self, call: Call, name: str, stage: Stage) -> Pipeline:
        """At the end. Executions that have begun keep the stages they began with."""
        audit.resource(f"{call.workspace}/{name}/{stage.name}")

        async def work(tx: Work) -> Pipeline:
            pipeline = add_stage(await find.locked_pipeline(tx, call.workspace, name), stage)
            await tx.save_pipeline(call.workspace, pipeline)
            return pipeline

        return await self._once.run(call, Pipeline, work)

    async def get(self, workspace: str, name: str) -> Pipeline:
        return await find.pipeline(self._store.reads, workspace, name)

    async def list_pipelines(self, workspace: str, page: Page) -> Listed[Pipeline]:
        """Newest first."""
        return await self._store.reads.pipelines(workspace, page)


class Suites:
    """Use cases on test suites."""

    def __init__(self, store: Store, models: Models) -> None:
        self._store = store
        self._models = models
        self._once = Once(store)

    async def create(self, call: Call, suite: Suite) -> Suite:
        """The same content again: the one that exists. `AlreadyExists` `test_suite_exists`; `dataset_not_found`."""
        check_suite(suite)
        audit.resource(f"{call.workspace}/{suite.name}")
        if (known := await self._once.recall(call, Suite)) is not None:
            return known
        await self._models.dataset(call.workspace, suite.dataset, suite.dataset_version)

        async def work(tx: Work) -> Suite:
            new = replace(suite, created_at=tx.now, created_by=call.principal)
            if await tx.add_suite(call.workspace, new):
                return new
            (existing,) = await tx.suites_named(call.workspace, [suite.name])
            return same_or_refused(existing, new)

        return await self._once.run(call, Suite, work)

    async def list_suites(self, workspace: str, page: Page) -> Listed[Suite]:
        """Newest first."""
        return await self._store.reads.suites(workspace, page)
