"""The use cases of callers: deploy, weigh, complete, roll back, scale, delete."""

from __future__ import annotations

from collections.abc import Callable

from phantom_deployer.domain import rollout
from phantom_deployer.domain.deployment import (
    DEFAULT_HASH_FIELD,
    Deployment,
    Environment,
    ModelVersion,
    alias_of,
    generated_id,
)
from phantom_deployer.domain.rollout import Outcome, Used
from phantom_deployer.domain.rollouts.commands import deployment_deleted
from phantom_deployer.domain.rollouts.turn import Around, Turn
from phantom_deployer.domain.values import Answer, Call, Order
from phantom_deployer.service import moves
from phantom_deployer.service.announcements import commit
from phantom_deployer.service.ports import Experiments, Models, Store, Work
from phantom_platform import audit
from phantom_platform.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    NotFound,
    Refused,
    Unsupported,
    Violation,
)
from phantom_platform.idempotency import Once
from phantom_platform.ids import check_resource_id

ENVIRONMENT_TYPES = ("local",)


class Deployments:
    """Desired state. `wake(workspace, id)` tells the reconciler; `entropy` gives text that makes a salt unique."""

    def __init__(
        self,
        store: Store,
        models: Models,
        experiments: Experiments,
        *,
        wake: Callable[[str, str], None],
        entropy: Callable[[], str],
    ) -> None:
        self._store = store
        self._models = models
        self._experiments = experiments
        self._wake = wake
        self._entropy = entropy
        self._once = Once(store)

    async def create_environment(self, call: Call, name: str, kind: str) -> Environment:
        """Again with the same type: the one that exists."""
        check_resource_id(name, "name")
        audit.resource(f"{call.workspace}/{name}")
        if kind not in ENVIRONMENT_TYPES:
            raise Unsupported(
                f"environments of type {kind!r} are not supported; use one of: {', '.join(ENVIRONMENT_TYPES)}",
                code="environment_type_unsupported",
                type=kind,
            )

        async def create(work: Work) -> Answer:
            environment = Environment(call.workspace, name, kind, work.now, call.principal)
            if not await work.add_environment(environment):
                known = await work.environment(call.workspace, name)
                if known is not None and known.type != kind:
                    raise AlreadyExists(
                        f"the environment {name} exists and is of type {known.type}",
                        code="environment_exists",
                    )
            return Answer(name)

        await self._once.run(call, Answer, create)
        found = await self._store.reads.environment(call.workspace, name)
        assert found is not None  # environments are never removed
        return found

    async def deploy(self, call: Call, order: Order) -> Answer:
        """A new deployment, or a candidate of one that exists."""
        known = await self._once.recall(call, Answer)
        if known is not None:
            return known
        check_resource_id(order.model_id, "model_id")
        target = order.deployment_id or generated_id(order.model_id, order.environment)
        check_resource_id(target, "deployment_id")
        audit.resource(f"{call.workspace}/{target}")
        if await self._store.reads.environment(call.workspace, order.environment) is None:
            raise NotFound(
                f"there is no environment {order.environment!r}; list them, or create it first",
                code="environment_not_found",
                environment=order.environment,
            )
        model = await self._models.version(call.workspace, order.model_id, order.version)
        used = self._experiments.used(call.workspace)

        async def place(work: Work) -> Answer:
            existing = await work.resolve(call.workspace, target)
            if existing is None:
                return await self._create(work, call, order, target, model)
            return await self._extend(work, call, order, existing, model, used)

        answer = await self._once.run(call, Answer, place)
        self._wake(call.workspace, answer.deployment_id)
        return answer

    async def set_weight(self, call: Call, name: str, bp: int) -> Answer:
        """Refused while a rollout is live: it decides on shares."""
        return await self._change(
            call, name, lambda deployment, used: rollout.set_weight(deployment, bp), instead="PromoteRollout"
        )

    async def complete(self, call: Call, name: str) -> Answer:
        """Refused while a rollout is live."""
        return await self._change(call, name, rollout.complete, instead="PromoteRollout")

    async def roll_back(self, call: Call, name: str, *, remove: bool, reason: str) -> Answer:
        return await self._change(
            call,
            name,
            lambda deployment, used: rollout.roll_back(deployment, remove=remove, reason=reason, used=used),
            instead="RollBackRollout",
        )

    async def scale(self, call: Call, name: str, replicas: int) -> Answer:
        return await self._change(call, name, lambda deployment, used: rollout.scale(deployment, replicas))

    async def delete(self, call: Call, name: str) -> Answer:
        """A live rollout ends with it."""
        audit.resource(f"{call.workspace}/{name}")
        used = self._experiments.used(call.workspace)

        async def work_on(work: Work) -> Answer:
            before = await locked(work, call.workspace, name)
            after, happened = rollout.delete(before, used)
            live = await work.live_rollout(before.workspace, before.id)
            if live is None:
                after = await commit(
                    work, before, after, happened, actor=call.principal, experiments=self._experiments
                )
                return Answer(after.id, route_version=after.route_version)
            around = Around(work.now, lambda route, version: None, used, actor=call.principal)
            turn = Turn(live, before, around)
            turn.change((after, happened))
            deployment_deleted(turn)
            _, after = await moves.save(work, before, live, turn, experiments=self._experiments)
            return Answer(after.id, route_version=after.route_version)

        answer = await self._once.run(call, Answer, work_on)
        self._wake(call.workspace, answer.deployment_id)
        return answer

    async def _change(
        self, call: Call, name: str, change: Callable[[Deployment, Used], Outcome], *, instead: str = ""
    ) -> Answer:
        """`instead`: what to call while a rollout is live, where the change is refused then."""
        audit.resource(f"{call.workspace}/{name}")
        used = self._experiments.used(call.workspace)

        async def work_on(work: Work) -> Answer:
            before = await locked(work, call.workspace, name)
            if instead:
                await _check_no_rollout(work, before, instead)
            after, happened = change(before, used)
            after = await commit(
                work, before, after, happened, actor=call.principal, experiments=self._experiments
            )
            return Answer(after.id, route_version=after.route_version)

        answer = await self._once.run(call, Answer, work_on)
        self._wake(call.workspace, answer.deployment_id)
        return answer

    async def _create(self, work: Work, call: Call, order: Order, target: str, model: ModelVersion) -> Answer:
        if order.canary_bp:
            raise Invalid(
                code="canary_without_stable",
                violations=[
                    Violation("canary_percent", f"{target} is new, and its first revision takes all traffic")
                ],
            )
        if not await work.take_name(call.workspace, target, target):
            raise Conflict(
                f"{target} was created by someone else just now; repeat the call", code="name_taken"
            )
        alias = alias_of(order.model_id, order.environment)
        has_alias = alias not in ("", target) and await work.take_name(call.workspace, alias, target)
        buried = await work.lock(call.workspace, target)
        deployment, happened = rollout.create(
            workspace=call.workspace,
            deployment_id=target,
            environment=order.environment,
            model=model,
            replicas=order.replicas or 1,
            hash_field=order.hash_field or DEFAULT_HASH_FIELD,
            aliases=(alias,) if has_alias else (),
            now=work.now,
            created_by=order.requester or call.principal,
            entropy=self._entropy(),
            buried=buried,
        )
        deployment = await commit(
            work, None, deployment, happened, actor=call.principal, experiments=self._experiments
        )
        return Answer(deployment.id, deployment.stable, deployment.route_version)

    async def _extend(
        self, work: Work, call: Call, order: Order, existing: str, model: ModelVersion, used: Used
    ) -> Answer:
        before = await locked(work, call.workspace, existing)
        check_is_the_same(before, order)
        await _check_no_rollout(work, before, "CreateRollout with on_conflict supersede, or RollBackRollout")
        after, happened = rollout.add_revision(
            before, model, bp=order.canary_bp, vouched=order.is_vouched, entropy=self._entropy(), used=used
        )
        after = await commit(
            work, before, after, happened, actor=call.principal, experiments=self._experiments
        )
        revision = max(after.revisions, key=lambda each: each.number)
        return Answer(after.id, revision.id, after.route_version)


async def locked(work: Work, workspace: str, name: str) -> Deployment:
    """By id or alias."""
    deployment_id = await work.resolve(workspace, name)
    found = await work.lock(workspace, deployment_id) if deployment_id else None
    if found is None or found.is_deleted:
        raise not_found(name)
    return found


async def _check_no_rollout(work: Work, deployment: Deployment, instead: str) -> None:
    live = await work.live_rollout(deployment.workspace, deployment.id)
    if live is not None:
        raise Refused(
            f"the rollout {live.id} of version {live.model_version} is live on {deployment.id} ({live.state}) and "
            f"decides on its traffic; use {instead}",
            code="rollout_live",
            rollout_id=live.id,
        )


def not_found(name: str) -> NotFound:
    return NotFound(
        f"there is no deployment {name!r}; list them, or deploy a model first",
        code="deployment_not_found",
        deployment_id=name,
    )


def check_is_the_same(deployment: Deployment, order: Order) -> None:
    """What was said of an existing deployment must be how it is."""
    if (deployment.model_id, deployment.environment) != (order.model_id, order.environment):
        raise Refused(
            f"the name belongs to {deployment.id}, which serves {deployment.model_id} in {deployment.environment}; "
            "give another deployment id",
            code="name_taken",
            deployment_id=deployment.id,
        )
    if order.replicas not in (0, deployment.replicas):
        raise Refused(
            f"{deployment.id} has {deployment.replicas} replicas a revision, not {order.replicas}; scale it, or leave "
            "the number out",
            code="replicas_differ",
        )
    if order.hash_field not in ("", deployment.hash_field):
        raise Refused(
            f"{deployment.id} hashes {deployment.hash_field!r}, which cannot change while it exists; leave it out",
            code="hash_field_differs",
        )
