"""The use cases of callers about rollouts: create, promote, roll back, pause, resume, approve, reject."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from phantom_deployer.domain.deployment import Deployment, ModelVersion, generated_id
from phantom_deployer.domain.rollouts import commands
from phantom_deployer.domain.rollouts.model import Judgement, Rollout, Transition
from phantom_deployer.domain.rollouts.spec import check, is_share
from phantom_deployer.domain.rollouts.strategies import of
from phantom_deployer.domain.rollouts.turn import WAITS, Around, Turn
from phantom_deployer.domain.status import Look
from phantom_deployer.domain.values import Call, Listed, Order, RolloutAnswer, RolloutOrder
from phantom_deployer.service.deployments import check_is_the_same, locked
from phantom_deployer.service.moves import save
from phantom_deployer.service.ports import Acknowledged, Experiments, Models, Store, Work
from phantom_platform import audit
from phantom_platform.clock import Clock
from phantom_platform.errors import Conflict, Invalid, NotFound, Refused, Unavailable, Violation
from phantom_platform.idempotency import Once
from phantom_platform.ids import check_resource_id

# The error rate "at present" is of so long.
PRESENT = timedelta(hours=1)


class Rollouts:
    """`wake(workspace, deployment)` tells the pilot and the reconciler; `mint` gives ids, `entropy` a salt's text."""

    def __init__(
        self,
        store: Store,
        models: Models,
        experiments: Experiments,
        acks: Acknowledged,
        clock: Clock,
        *,
        wake: Callable[[str, str], None],
        mint: Callable[[], str],
        entropy: Callable[[], str],
    ) -> None:
        self._store = store
        self._models = models
        self._experiments = experiments
        self._acks = acks
        self._clock = clock
        self._wake = wake
        self._mint = mint
        self._entropy = entropy
        self._once = Once(store)

    # -- reads -------------------------------------------------------------------------------------------------------

    async def get(self, workspace: str, name: str) -> Rollout:
        """By its id; or the newest of a deployment, by its id or alias."""
        found = await self._store.reads.rollout(workspace, name)
        if found is None:
            deployment_id = await self._store.reads.resolve(workspace, name) or name
            found = await self._store.reads.newest_rollout(workspace, deployment_id)
        if found is None:
            raise NotFound(
                f"there is no rollout {name!r}, and none of a deployment of that name; list them",
                code="rollout_not_found",
                rollout_id=name,
            )
        return found

    async def transitions(self, rollout: Rollout) -> list[Transition]:
        return await self._store.reads.transitions(rollout.id)

    async def judgements(self, rollout: Rollout) -> list[Judgement]:
        """One each time that the verdict, or what fired, changed."""
        return await self._store.reads.judgements(rollout.id)

    async def list(
        self, workspace: str, before: str, size: int, name: str, live_only: bool
    ) -> Listed[Rollout]:
        """Newest first. `name`: of a deployment or alias, empty for all."""
        deployment_id = (await self._store.reads.resolve(workspace, name) or name) if name else ""
        return await self._store.reads.rollouts(workspace, before, size, deployment_id, live_only)

    async def at_present(self, rollout: Rollout) -> tuple[str, int]:
        """(why it stands where it stands, with what it waits for just now; its deployment's route version)."""
        found = await self._store.reads.deployment(rollout.workspace, rollout.deployment_id)
        if found is None:
            return rollout.reason, 0
        waits = self._waits_for(rollout, found)
        return f"{rollout.reason}; {waits}" if waits else rollout.reason, found.route_version

    def _waits_for(self, rollout: Rollout, deployment: Deployment) -> str:
        candidate, span = deployment.revision(rollout.candidate), rollout.span
        if rollout.is_live and WAITS in rollout.notes:
            return f"it cannot go on just now: {rollout.notes[WAITS]}"
        if rollout.state == "pending" and candidate is not None and not candidate.was_ready:
            return Look(deployment, self._clock.now(), self._acks.waiting).revision(candidate).reason
        version = 0
        if rollout.state == "rolling_back":
            version = rollout.rollback_version
        elif rollout.is_live and span is not None and span.started_at is None:
            version = span.first_version
        waiting = self._acks.waiting(rollout.key, version, "applied") if version else None
        return waiting.reason if waiting else ""

    # -- a new one ---------------------------------------------------------------------------------------------------

    async def create(self, call: Call, order: RolloutOrder) -> RolloutAnswer:
        """The candidate, and the rollout that brings it in."""
        known = await self._once.recall(call, RolloutAnswer)
        if known is not None:
            return known
        check_resource_id(order.model_id, "model_id")
        check(order.spec)
        of(order.spec.strategy)
        target = order.deployment_id or generated_id(order.model_id, order.environment)
        audit.resource(f"{call.workspace}/{target}")
        if await self._store.reads.environment(call.workspace, order.environment) is None:
            raise NotFound(
                f"there is no environment {order.environment!r}; list them, or create it first",
                code="environment_not_found",
                environment=order.environment,
            )
        model = await self._models.version(call.workspace, order.model_id, order.version)

        async def begin(work: Work) -> RolloutAnswer:
            deployment = await locked(work, call.workspace, target)
            check_is_the_same(deployment, Order(order.model_id, order.environment))
            self._check_no_experiment(deployment)
            deployment = await self._clear(work, call, order, deployment, model)
            return await self._begin(work, call, order, deployment, model)

        answer = await self._once.run(call, RolloutAnswer, begin)
        self._wake(call.workspace, answer.deployment_id)
        return answer

    async def _begin(
        self, work: Work, call: Call, order: RolloutOrder, deployment: Deployment, model: ModelVersion
    ) -> RolloutAnswer:
        asked = commands.Begin(
            rollout_id=self._mint(),
            model=model,
            spec=order.spec,
            is_vouched=order.is_vouched,
            entropy=self._entropy(),
            requester=order.requester or call.principal,
            error_rate=await _error_rate(work, deployment),
        )
        turn = commands.create(deployment, asked, self._around(work, call))
        rollout, _ = await save(work, deployment, None, turn, experiments=self._experiments)
        return RolloutAnswer(rollout.id, deployment.id)

    async def _clear(
        self, work: Work, call: Call, order: RolloutOrder, deployment: Deployment, model: ModelVersion
    ) -> Deployment:
        """Without another live rollout."""
        live = await work.live_rollout(deployment.workspace, deployment.id)
        if live is None:
            return deployment
        if order.spec.on_conflict == "refuse":
            raise Refused(
                f"the rollout {live.id} of version {live.model_version} is live on {deployment.id} ({live.state}); "
                "wait, roll it back, or say on_conflict: supersede",
                code="rollout_live",
                rollout_id=live.id,
            )
        turn = Turn(live, deployment, self._around(work, call))
        commands.supersede(turn, model.version)
        _, deployment = await save(work, deployment, live, turn, experiments=self._experiments)
        return deployment

    def _check_no_experiment(self, deployment: Deployment) -> None:
        running = self._experiments.running(deployment.key)
        if running is None:
            raise Unavailable(
                "whether an experiment runs on the endpoint is not known yet: Kafka has not been read to its end",
                code="experiments_unknown",
            )
        if running:
            raise Refused(
                f"the experiment {running[0]} runs on {deployment.id}; stop or conclude it first",
                code="experiment_running",
                experiment=running[0],
            )

    # -- of one that goes on -----------------------------------------------------------------------------------------

    async def promote(self, call: Call, name: str, percent: float | None) -> RolloutAnswer:
        """To that share, or to the next step."""
        if percent is not None and not is_share(percent, least=0.01):
            problem = f"{percent} is not a share in steps of 0.01 from 0.01 to 100 percent"
            raise Invalid(
                code="percent_not_representable", violations=[Violation("target_percentage", problem)]
            )
        bp = None if percent is None else round(percent * 100)
        return await self._change(call, name, lambda turn: commands.promote(turn, bp))

    async def roll_back(self, call: Call, name: str, reason: str) -> RolloutAnswer:
        return await self._change(call, name, lambda turn: commands.roll_back(turn, reason))

    async def pause(self, call: Call, name: str) -> RolloutAnswer:
        return await self._change(call, name, commands.pause)

    async def resume(self, call: Call, name: str) -> RolloutAnswer:
        return await self._change(call, name, commands.resume)

    async def approve(self, call: Call, name: str, comment: str) -> RolloutAnswer:
        return await self._change(call, name, lambda turn: commands.approve(turn, comment))

    async def reject(self, call: Call, name: str, comment: str) -> RolloutAnswer:
        return await self._change(call, name, lambda turn: commands.reject(turn, comment))

    async def _change(self, call: Call, name: str, change: Callable[[Turn], None]) -> RolloutAnswer:
        audit.resource(f"{call.workspace}/{name}")

        async def work_on(work: Work) -> RolloutAnswer:
            found = await self.get(call.workspace, name)
            deployment = await work.lock(call.workspace, found.deployment_id)
            current = await work.rollout(call.workspace, found.id)
            if deployment is None or current is None:
                raise Conflict(f"{found.deployment_id} changed just now; repeat the call", code="changed")
            turn = Turn(current, deployment, self._around(work, call))
            change(turn)
            await save(work, deployment, current, turn, experiments=self._experiments)
            return RolloutAnswer(current.id, deployment.id)

        answer = await self._once.run(call, RolloutAnswer, work_on)
        self._wake(call.workspace, answer.deployment_id)
        return answer

    def _around(self, work: Work, call: Call) -> Around:
        return Around(
            now=work.now,
            waiting=lambda route, version: self._acks.waiting(route, version, "applied"),
            used=self._experiments.used(call.workspace),
            actor=call.principal,
        )


async def _error_rate(work: Work, deployment: Deployment) -> float | None:
    """The stable revision's at present; None where it is not known."""
    begin = work.now - PRESENT
    failed, calls = await work.error_rate(deployment.workspace, deployment.id, deployment.stable, begin)
    return failed / calls if calls else None
