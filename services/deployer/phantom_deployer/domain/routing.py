"""The route that a deployment should have now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from phantom_contracts.schema import EndpointSchema, ModelSchema, endpoint_schema
from phantom_deployer.domain.deployment import CANDIDATE, Deployment, Replica, Revision, Shadow
from phantom_deployer.domain.schemas import newly_required
from phantom_statistics.assignment import CONTROL, Allocation


@dataclass(frozen=True, slots=True)
class RoutedRevision:
    """A revision and those of its replicas that may be sent work."""

    revision: Revision
    replicas: tuple[Replica, ...]
    is_pinnable: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """What the record says, without its version."""

    endpoint: str
    aliases: tuple[str, ...]
    schema: EndpointSchema
    hash_field: str
    salt: str
    allocations: tuple[Allocation, ...]
    arms: Mapping[str, str]
    revisions: tuple[RoutedRevision, ...]
    shadow: Shadow | None = None

    @property
    def replica_ids(self) -> frozenset[str]:
        return frozenset(replica.id for each in self.revisions for replica in each.replicas)


def desired_route(deployment: Deployment, arms: Iterable[RoutedRevision] = ()) -> Route | None:
    """The route, or None where there is none: before the stable revision was first ready, and once deleting.

    `arms`: revisions of other deployments that running experiments of this endpoint use. One whose schema does not fit
    the endpoint's is left out, since its arm then falls to control instead of breaking clients.
    """
    stable = deployment.stable_revision
    if deployment.is_deleting or stable is None or not stable.was_ready:
        return None
    own = [
        RoutedRevision(each, deployment.serving(each.id), each.phase != "rolled_back")
        for each in sorted(deployment.revisions, key=lambda each: each.number)
        if _is_routed(deployment, each)
    ]
    live = [each.revision.model.model_schema for each in own]
    # Columns of revisions that are gone stay, as optional ones.
    schema = endpoint_schema(live, deployment.schema)
    fitting = [each for each in arms if not misfit(each.revision.model.model_schema, schema)]
    if fitting:
        schema = endpoint_schema([*live, *(each.revision.model.model_schema for each in fitting)], schema)
    candidate = deployment.candidate_revision
    has_candidate = candidate is not None and candidate.was_ready
    return Route(
        endpoint=deployment.id,
        aliases=deployment.aliases,
        schema=schema,
        hash_field=deployment.hash_field,
        salt=deployment.salt,
        allocations=deployment.allocations if has_candidate else (),
        arms={CONTROL: stable.id} | ({CANDIDATE: deployment.candidate} if has_candidate else {}),
        revisions=(*own, *fitting),
        shadow=deployment.shadow,
    )


def misfit(model: ModelSchema, endpoint: EndpointSchema) -> str:
    """Why an arm's revision cannot answer this endpoint's clients; empty where it can."""
    missing = newly_required(model, endpoint)
    if missing:
        return f"it requires {', '.join(sorted(missing))}, which clients of the endpoint need not send"
    try:
        endpoint_schema([model], endpoint)
    except ValueError as error:
        return str(error)
    return ""


def _is_routed(deployment: Deployment, revision: Revision) -> bool:
    """A withdrawing revision stays until its replicas have been told to leave: that is a later version."""
    if not revision.was_ready:
        return False
    return revision.is_live or bool(deployment.serving(revision.id))
