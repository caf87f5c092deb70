"""What the deployer writes: routes (compacted) and the history of deployments."""

from __future__ import annotations

from typing import ClassVar, Literal

from phantom_contracts.events.base import Event, Record, Value
from phantom_contracts.schema import EndpointSchema, ModelSchema

Protocol = Literal["frames", "oip"]


class Replica(Value):
    """One model server. `protocol` is `oip` for a server of another make, spoken to by plain OIP unary calls."""

    id: str
    address: str
    protocol: Protocol = "frames"


class RouteRevision(Value):
    """A revision that may be sent traffic, or pinned."""

    id: str
    model_id: str
    model_version: str
    digest: str = ""
    replicas: tuple[Replica, ...] = ()
    model_schema: ModelSchema | None = None
    # A rolled-back revision can be pinned only with the override permission.
    pinnable: bool = True


class BucketRange(Value):
    """Buckets [start, end) of 10,000 that belong to `arm`."""

    start: int
    end: int
    arm: str


class ShadowRoute(Value):
    """Calls of units whose bucket under `salt` is below `bp` are copied to `revision`; its answers go to nobody.

    Only calls that the rollout decided and the stable revision takes are copied. A call without a unit counts by its
    prediction id.
    """

    revision: str
    salt: str
    # Share in basis points, one a bucket of 10,000.
    bp: int


class RouteRecord(Record):
    """The route of one endpoint: phantom.routes.v1, key `<workspace>/<endpoint>`."""

    type: ClassVar[str] = "phantom.deployer.RouteChanged.v1"
    endpoint: str
    aliases: tuple[str, ...] = ()
    endpoint_schema: EndpointSchema
    hash_field: str = "user_id"
    # Minted once for a rollout. Buckets not in `allocations` are control.
    salt: str
    allocations: tuple[BucketRange, ...] = ()
    # arm → revision id; `control` is always there, `candidate` while a rollout is live.
    arms: dict[str, str]
    revisions: tuple[RouteRevision, ...]
    shadow: ShadowRoute | None = None

    def revision(self, revision_id: str) -> RouteRevision | None:
        """The revision of that id, None where the route has none such."""
        return next((r for r in self.revisions if r.id == revision_id), None)


class DeploymentEvent(Event):
    """Something that happened to a deployment; key `<workspace>/<deployment>`."""

    deployment_id: str
    environment: str
    # Who asked for it; `deployer` where the reconciler acted by itself.
    actor: str
    # Why, in words and figures.
    reason: str = ""


class DeploymentCreated(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.DeploymentCreated.v1"
    model_id: str
    model_version: str
    replicas: int


class RevisionAdded(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.RevisionAdded.v1"
    revision: str
    model_id: str
    model_version: str
    digest: str


class RevisionReady(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.RevisionReady.v1"
    revision: str


class RevisionFailed(DeploymentEvent):
    """A revision could not be started; the route is unchanged."""

    type: ClassVar[str] = "phantom.deployer.RevisionFailed.v1"
    revision: str
    error_code: str


class CanaryWeightSet(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.CanaryWeightSet.v1"
    revision: str
    percent: float
    previous_percent: float
    route_version: int


class ShadowSet(DeploymentEvent):
    """Another share of the calls is copied to the candidate; 0: none any more."""

    type: ClassVar[str] = "phantom.deployer.ShadowSet.v1"
    revision: str
    percent: float
    previous_percent: float
    route_version: int


class CanaryRolledBack(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.CanaryRolledBack.v1"
    revision: str
    route_version: int


class RolloutCompleted(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.RolloutCompleted.v1"
    revision: str
    previous_revision: str
    route_version: int


class RolloutSwitchedBack(DeploymentEvent):
    """A revision that was kept warm is stable again in the place of the one that had replaced it."""

    type: ClassVar[str] = "phantom.deployer.RolloutSwitchedBack.v1"
    revision: str
    previous_revision: str
    route_version: int


class RevisionWithdrawn(DeploymentEvent):
    """The last replica of a revision has stopped."""

    type: ClassVar[str] = "phantom.deployer.RevisionWithdrawn.v1"
    revision: str


class ReplicaRestarted(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.ReplicaRestarted.v1"
    revision: str
    replica: str
    restarts: int


class DeploymentDeleted(DeploymentEvent):
    type: ClassVar[str] = "phantom.deployer.DeploymentDeleted.v1"


class RolloutTransitioned(DeploymentEvent):
    """A rollout went from one state or step to another; `reason` says why in words and figures."""

    type: ClassVar[str] = "phantom.deployer.RolloutTransitioned.v1"
    rollout_id: str
    strategy: str
    revision: str
    from_state: str
    to_state: str
    # Stable code of the reason, e.g. `criterion_failed`, `no_data`, `approved`.
    reason_code: str = ""
    # The criterion that fired, where a judgement caused it.
    criterion: str = ""
    step: int = 0
    percent: float = 0.0
    route_version: int = 0
