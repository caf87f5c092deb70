"""Facts become events, a route becomes its record, and both commit with the state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from phantom_contracts.events import deployer as events
from phantom_contracts.events.deployer import (
    BucketRange,
    DeploymentEvent,
    RouteRecord,
    RouteRevision,
    ShadowRoute,
)
from phantom_deployer.domain import facts
from phantom_deployer.domain.deployment import Deployment
from phantom_deployer.domain.facts import Fact
from phantom_deployer.domain.routing import Route, RoutedRevision, desired_route
from phantom_deployer.domain.values import RouteVersion
from phantom_deployer.service.ports import Experiments, Work

# Published, a version is read back within milliseconds.
LOST_AFTER = timedelta(seconds=10)


async def commit(
    work: Work,
    before: Deployment | None,
    after: Deployment,
    happened: Iterable[Fact],
    *,
    actor: str,
    experiments: Experiments,
) -> Deployment:
    """Save the deployment, publish its route where that changes, announce what happened. Returns it as saved."""
    happened = tuple(happened)
    after = await _publish(work, after, experiments)
    if after.is_deleting and after.aliases and (after.is_deleted or before is None or not before.is_deleting):
        after = await _bequeath(work, after, actor=actor, experiments=experiments)
    if after == before and not happened:
        return after
    for fact in happened:
        after = replace(after, version=after.version + 1)
        work.announce(after.key, to_event(after, fact, actor), after.version)
    if after.is_deleted:
        await work.free_names(after.workspace, after.id)
    await work.save(before, after)
    return after


async def _bequeath(work: Work, leaving: Deployment, *, actor: str, experiments: Experiments) -> Deployment:
    """The oldest other deployment of the model there takes the aliases over. Without one they go with the deployment.

    Called when its deletion begins, so that the alias goes on answering, and once more when it ends. An heir that
    is being deleted itself waits for nobody's row, so two of these cannot wait for each other.
    """
    for heir_id in await work.heirs(leaving):
        heir = await work.lock(leaving.workspace, heir_id)
        if heir is None or heir.is_deleting:
            continue
        await work.move_names(leaving.workspace, leaving.aliases, heir.id)
        richer = replace(heir, aliases=(*heir.aliases, *leaving.aliases))
        await commit(work, heir, richer, (), actor=actor, experiments=experiments)
        return replace(leaving, aliases=())
    return leaving


async def repeat_lost(work: Work, deployment: Deployment, confirmed: int) -> bool:
    """Publish the newest version again where Kafka has lost it: it left the outbox, and does not come back.

    `confirmed`: the newest version that was read back, after everything was read.
    """
    if confirmed >= deployment.route_version:
        return False
    latest = await work.route(deployment.workspace, deployment.id, 0)
    if (
        latest is None
        or work.now - latest.created_at < LOST_AFTER
        or await work.is_on_its_way(deployment.key)
    ):
        return False
    work.announce_route(deployment.key, latest.version, _record(latest))
    return True


async def _publish(work: Work, deployment: Deployment, experiments: Experiments) -> Deployment:
    latest = _record(await work.route(deployment.workspace, deployment.id, 0))
    wanted = experiments.arms(deployment.key)
    if wanted is None:  # not known yet: as they are
        wanted = tuple(each.id for each in latest.revisions) if latest else ()
    own = {each.id for each in deployment.revisions}
    foreign = [each for each in wanted if each not in own]
    arms = await work.arms(deployment.workspace, foreign) if foreign else []
    route = desired_route(deployment, arms)
    if _is_same(deployment.workspace, route, latest):
        return deployment
    version = deployment.route_version + 1
    record = to_record(deployment.workspace, route, version) if route else None
    await work.publish(deployment.workspace, deployment.id, version, record)
    return replace(deployment, route_version=version, schema=route.schema if route else deployment.schema)


def _record(latest: RouteVersion | None) -> RouteRecord | None:
    if latest is None or latest.record_json is None:
        return None
    return RouteRecord.model_validate_json(latest.record_json)


def _is_same(workspace: str, route: Route | None, latest: RouteRecord | None) -> bool:
    if route is None or latest is None:
        return route is None and latest is None
    return to_record(workspace, route, latest.version) == latest


def to_record(workspace: str, route: Route, version: int) -> RouteRecord:
    return RouteRecord(
        workspace=workspace,
        version=version,
        endpoint=route.endpoint,
        aliases=route.aliases,
        endpoint_schema=route.schema,
        hash_field=route.hash_field,
        salt=route.salt,
        allocations=tuple(BucketRange(start=a.start, end=a.end, arm=a.arm) for a in route.allocations),
        arms=dict(route.arms),
        revisions=tuple(_to_revision(each) for each in route.revisions),
        shadow=_to_shadow(route),
    )


def _to_shadow(route: Route) -> ShadowRoute | None:
    shadow = route.shadow
    return ShadowRoute(revision=shadow.revision, salt=shadow.salt, bp=shadow.bp) if shadow else None


def _to_revision(routed: RoutedRevision) -> RouteRevision:
    model = routed.revision.model
    replicas = sorted(routed.replicas, key=lambda each: each.id)
    return RouteRevision(
        id=routed.revision.id,
        model_id=model.model_id,
        model_version=model.version,
        digest=model.digest,
        replicas=tuple(events.Replica(id=each.id, address=each.address) for each in replicas),
        model_schema=model.model_schema,
        pinnable=routed.is_pinnable,
    )


def to_event(deployment: Deployment, fact: Fact, actor: str) -> DeploymentEvent:
    """The event of a fact, after the state that it led to."""
    common: dict[str, Any] = {
        "workspace": deployment.workspace,
        "deployment_id": deployment.id,
        "environment": deployment.environment,
        "actor": actor,
        "reason": fact.reason,
    }
    version = deployment.route_version
    match fact:
        case facts.Created(model_version, replicas):
            return events.DeploymentCreated(
                **common, model_id=deployment.model_id, model_version=model_version, replicas=replicas
            )
        case facts.Added(revision):
            return events.RevisionAdded(**common, revision=revision, **_model(deployment, revision))
        case facts.BecameReady(revision):
            return events.RevisionReady(**common, revision=revision)
        case facts.Failed(revision, code):
            return events.RevisionFailed(**common, revision=revision, error_code=code)
        case facts.WeightSet(revision, bp, previous):
            return events.CanaryWeightSet(
                **common,
                revision=revision,
                percent=bp / 100,
                previous_percent=previous / 100,
                route_version=version,
            )
        case facts.ShadowSet(revision, bp, previous):
            return events.ShadowSet(
                **common,
                revision=revision,
                percent=bp / 100,
                previous_percent=previous / 100,
                route_version=version,
            )
        case facts.SwitchedBack(revision, previous_revision):
            return events.RolloutSwitchedBack(
                **common, revision=revision, previous_revision=previous_revision, route_version=version
            )
        case facts.RolledBack(revision):
            return events.CanaryRolledBack(**common, revision=revision, route_version=version)
        case facts.Completed(revision, previous_revision):
            return events.RolloutCompleted(
                **common, revision=revision, previous_revision=previous_revision, route_version=version
            )
        case facts.Withdrawn(revision):
            return events.RevisionWithdrawn(**common, revision=revision)
        case facts.Restarted(revision, replica, restarts):
            return events.ReplicaRestarted(**common, revision=revision, replica=replica, restarts=restarts)
        case facts.RolloutMoved():
            return _moved(common, fact, version)
        case facts.Deleted():
            return events.DeploymentDeleted(**common)


def _moved(common: dict[str, Any], fact: facts.RolloutMoved, version: int) -> events.RolloutTransitioned:
    return events.RolloutTransitioned(
        **common,
        rollout_id=fact.rollout,
        strategy=fact.strategy,
        revision=fact.revision,
        from_state=fact.from_state,
        to_state=fact.to_state,
        reason_code=fact.reason_code,
        criterion=fact.criterion,
        step=fact.step,
        percent=fact.bp / 100,
        route_version=version,
    )


def _model(deployment: Deployment, revision_id: str) -> dict[str, str]:
    revision = deployment.revision(revision_id)
    assert revision is not None  # it was added in this very change
    model = revision.model
    return {"model_id": model.model_id, "model_version": model.version, "digest": model.digest}
