"""Executions, as people see and steer them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phantom_pipelines.domain import approvals
from phantom_pipelines.domain import execution as executions
from phantom_pipelines.domain.execution import Execution
from phantom_pipelines.domain.pipeline import Pipeline
from phantom_pipelines.domain.values import MAY_DEPLOY, Call, Listed, LogLine, Page
from phantom_pipelines.service import find
from phantom_pipelines.service.announcements import save
from phantom_pipelines.service.named import Named
from phantom_pipelines.service.ports import Deployments, Models, Store, Work
from phantom_platform import audit
from phantom_platform.errors import Forbidden
from phantom_platform.idempotency import Once
from phantom_platform.ids import new_id

Logs = dict[str, list[LogLine]]


@dataclass(frozen=True)
class Order:
    """What to execute. An empty version: the newest."""

    pipeline: str
    model_id: str
    version: str = ""
    trigger: str = ""


class Executions:
    """Use cases on executions. `wake()` tells the executor that there is something to do."""

    def __init__(
        self, store: Store, models: Models, deployments: Deployments, wake: Callable[[], None]
    ) -> None:
        self._store = store
        self._models = models
        self._deployments = deployments
        self._wake = wake
        self._once = Once(store)

    async def execute(self, call: Call, order: Order) -> Execution:
        """Begin, after looking whether everything is there that the stages name."""
        audit.resource(f"{call.workspace}/{order.pipeline}")
        if (known := await self._once.recall(call, str)) is not None:
            return await self.get(call.workspace, known)
        pipeline = await find.pipeline(self._store.reads, call.workspace, order.pipeline)
        _check_may_deploy(call, pipeline)
        await Named(call.workspace, self._store.reads, self._models, self._deployments).check(pipeline)
        model = await self._models.version(call.workspace, order.model_id, order.version)

        async def work(tx: Work) -> str:
            execution = executions.begin(
                pipeline,
                model,
                workspace=call.workspace,
                execution_id=new_id(),
                by=call.principal,
                trigger=order.trigger or "manual",
                now=tx.now,
            )
            await tx.add_execution(execution)
            await save(tx, execution, executions.advance(execution, tx.now), actor=call.principal)
            return execution.execution_id

        execution_id = await self._once.run(call, str, work)
        self._wake()
        return await self.get(call.workspace, execution_id)

    async def get(self, workspace: str, execution_id: str) -> Execution:
        return await find.execution(self._store.reads, workspace, execution_id)

    async def logs(self, workspace: str, execution_id: str) -> Logs:
        """Stage → its newest lines, in order."""
        return await self._store.reads.log_lines(workspace, execution_id)

    async def list_executions(self, workspace: str, page: Page, pipeline: str) -> Listed[Execution]:
        """Newest first; of one pipeline where one is named."""
        wanted = (await find.pipeline(self._store.reads, workspace, pipeline)).pipeline_id if pipeline else ""
        return await self._store.reads.executions(workspace, page, wanted)

    async def cancel(self, call: Call, execution_id: str, reason: str) -> Execution:
        """What runs is ended in order: the executor interrupts it and takes back what it had begun."""
        return await self._change(
            call,
            execution_id,
            lambda execution, tx: executions.cancel(execution, call.principal, reason, tx.now),
        )

    async def decide(
        self, call: Call, execution_id: str, stage: str, *, approve: bool, comment: str
    ) -> Execution:
        """Approve or reject the stage that waits."""
        return await self._change(
            call,
            execution_id,
            lambda execution, tx: approvals.decide(
                execution, stage, approve=approve, actor=call.principal, comment=comment, now=tx.now
            ),
        )

    async def _change(
        self, call: Call, execution_id: str, change: Callable[[Execution, Work], Execution]
    ) -> Execution:
        audit.resource(f"{call.workspace}/{execution_id}")

        async def work(tx: Work) -> str:
            before = await find.locked_execution(tx, call.workspace, execution_id)
            await save(tx, before, change(before, tx), actor=call.principal)
            return execution_id

        await self._once.run(call, str, work)
        self._wake()
        return await self.get(call.workspace, execution_id)


def _check_may_deploy(call: Call, pipeline: Pipeline) -> None:
    """A pipeline deploys with the service's own rights, so it must not lend them to who has none."""
    deploys = [each.name for each in pipeline.stages if each.type == "deployment"]
    if deploys and not call.may_deploy:
        raise Forbidden(
            f"stage {deploys[0]} deploys, and {call.principal} lacks the permission {MAY_DEPLOY}; ask an administrator "
            "to grant it",
            code="permission_missing",
            permission=MAY_DEPLOY,
            principal=call.principal,
        )
