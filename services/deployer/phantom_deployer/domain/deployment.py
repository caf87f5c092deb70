"""A deployment: one model served under one name by revisions, each by replicas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from phantom_contracts.schema import EndpointSchema, ModelSchema
from phantom_platform.errors import Invalid, Violation
from phantom_platform.ids import check_resource_id
from phantom_statistics.assignment import Allocation, share_of

CANDIDATE = "candidate"
DEFAULT_ENVIRONMENT = "production"
DEFAULT_HASH_FIELD = "user_id"
_SUFFIXES = {DEFAULT_ENVIRONMENT: "prod"}
_ID_LENGTH = 63

# pending: its replicas start for the first time. rolled_back: a candidate that lost its traffic, or all but a rest of
# it, and stays for a look. standby: was stable and stays warm, to be switched back to. withdrawing: on its way out.
# failed: could not be started, has no replicas.
RevisionPhase = Literal["pending", "ready", "rolled_back", "standby", "failed", "withdrawing", "withdrawn"]
# pending: to be started. restarting: died, waits for its next start.
ReplicaPhase = Literal["pending", "starting", "ready", "restarting", "failed"]

_LIVE: frozenset[RevisionPhase] = frozenset({"pending", "ready", "rolled_back", "standby"})


@dataclass(frozen=True, slots=True)
class Environment:
    """Where deployments run."""

    workspace: str
    name: str
    type: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """What the registry says of the version to serve."""

    model_id: str
    version: str
    digest: str
    file_name: str
    framework: str
    size_bytes: int
    model_schema: ModelSchema


@dataclass(frozen=True, slots=True)
class Revision:
    """One model version as deployed once; id `<deployment>.<number>`, never used again."""

    id: str
    number: int
    model: ModelVersion
    phase: RevisionPhase = "pending"
    reason: str = ""
    error_code: str = ""
    # All the replicas that it was to have, and one at least, were ready at once, at some time.
    was_ready: bool = False
    # Replicas it is to have while it is rolled in or out; None: as many as the deployment says.
    target: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether it is meant to have replicas."""
        return self.phase in _LIVE


@dataclass(frozen=True, slots=True)
class Replica:
    """One model server process, through all its lives."""

    id: str
    revision: str
    drain_key: str = field(repr=False)
    phase: ReplicaPhase = "pending"
    address: str = ""
    pid: int = 0
    # One a start of the process.
    launch_id: str = ""
    launched_at: datetime | None = None
    ready_at: datetime | None = None
    restarts: int = 0
    # Deaths in a row, since it was last ready for long.
    failures: int = 0
    next_start_at: datetime | None = None
    is_leaving: bool = False
    drain_sent_at: datetime | None = None
    reason: str = ""
    # The newest version of some route names it.
    is_routed: bool = False
    # Of routes that named it: route key → first version without it.
    departures: tuple[tuple[str, int], ...] = ()

    @property
    def is_serving(self) -> bool:
        """Whether a route may name it."""
        return self.phase == "ready" and not self.is_leaving


@dataclass(frozen=True, slots=True)
class Shadow:
    """Copies of the calls of units whose bucket under `salt` is below `bp` go to the revision, for no caller."""

    revision: str
    salt: str
    bp: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """The aggregate: everything that is decided together.

    `replicas` is the wanted number of each revision that has no target of its own.
    """

    workspace: str
    id: str
    environment: str
    model_id: str
    replicas: int
    hash_field: str
    created_at: datetime
    created_by: str
    salt: str
    stable: str = ""
    candidate: str = ""
    allocations: tuple[Allocation, ...] = ()
    # The share that the candidate gets once it is ready, basis points.
    pending_bp: int = 0
    shadow: Shadow | None = None
    next_number: int = 1
    aliases: tuple[str, ...] = ()
    schema: EndpointSchema | None = None
    is_deleting: bool = False
    is_deleted: bool = False
    route_version: int = 0
    # Number of the last event about it.
    version: int = 0
    revisions: tuple[Revision, ...] = ()
    processes: tuple[Replica, ...] = ()

    @property
    def key(self) -> str:
        """Kafka's key of the deployment and of its route."""
        return f"{self.workspace}/{self.id}"

    def revision(self, revision_id: str) -> Revision | None:
        return next((each for each in self.revisions if each.id == revision_id), None)

    @property
    def stable_revision(self) -> Revision | None:
        return self.revision(self.stable)

    @property
    def candidate_revision(self) -> Revision | None:
        return self.revision(self.candidate)

    @property
    def standby_revision(self) -> Revision | None:
        return next((each for each in self.revisions if each.phase == "standby"), None)

    @property
    def candidate_bp(self) -> int:
        return share_of(self.allocations, CANDIDATE)

    def wanted(self, revision: Revision) -> int:
        """How many replicas the revision is to have, while it is live."""
        return self.replicas if revision.target is None else revision.target

    def replicas_of(self, revision_id: str) -> tuple[Replica, ...]:
        return tuple(each for each in self.processes if each.revision == revision_id)

    def serving(self, revision_id: str) -> tuple[Replica, ...]:
        return tuple(each for each in self.replicas_of(revision_id) if each.is_serving)

    def with_revision(self, revision: Revision) -> Deployment:
        """With this revision added, or in the place of the one with its id."""
        others = tuple(each for each in self.revisions if each.id != revision.id)
        return replace(self, revisions=(*others, revision))

    def with_process(self, replica: Replica) -> Deployment:
        """With this replica added, or in its place."""
        if any(each.id == replica.id for each in self.processes):
            return replace(
                self, processes=tuple(replica if each.id == replica.id else each for each in self.processes)
            )
        return replace(self, processes=(*self.processes, replica))

    def without_process(self, replica_id: str) -> Deployment:
        return replace(self, processes=tuple(each for each in self.processes if each.id != replica_id))


def generated_id(model_id: str, environment: str) -> str:
    """`<model>-<environment's suffix>`. Raises Invalid where that is too long to be an id."""
    name = f"{model_id}-{_SUFFIXES.get(environment, environment)}"
    if len(name) > _ID_LENGTH:
        raise Invalid(
            code="id_too_long",
            violations=[
                Violation(
                    "deployment_id",
                    f"{name!r} would have {len(name)} characters, over {_ID_LENGTH}; give a deployment id",
                )
            ],
        )
    return check_resource_id(name, "deployment_id")


def alias_of(model_id: str, environment: str) -> str:
    """The model id names its deployment in the default environment; other environments give no alias."""
    return model_id if environment == DEFAULT_ENVIRONMENT else ""


def new_salt(deployment_id: str, number: int, entropy: str) -> str:
    """The salt of the rollout of that revision: unlike any other's, and without a colon."""
    return f"{deployment_id}.{number}.{entropy}"


def names(values: Iterable[str]) -> str:
    """For messages: `a, b and c`."""
    listed = sorted(values)
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}" if listed else ""
