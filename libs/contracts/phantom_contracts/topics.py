"""The topic catalogue: every topic, who writes it, how it is kept and what it carries (contracts §2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from phantom_contracts.events import (
    audit,
    deployer,
    experiment,
    gateway,
    governance,
    monitor,
    pipelines,
    registry,
    upstream,
)
from phantom_contracts.events.base import Event

_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Topic:
    """One Kafka topic. Partition counts never change within v1."""

    name: str
    # The one service that writes it; `all` and `upstream` are the exceptions by design.
    writer: str
    kind: Literal["log", "compacted"]
    events: tuple[type[Event], ...] = ()
    # Kafka stamps records itself: their time is comparable across writers.
    log_append_time: bool = False
    # What the value is, where it is not JSON of `events`.
    content_type: str = "application/json"
    key: str = ""

    @property
    def partitions(self) -> int:
        """6 for logs, 1 for compacted topics."""
        return 6 if self.kind == "log" else 1

    @property
    def config(self) -> dict[str, str]:
        """Kafka's topic settings."""
        config = {"max.message.bytes": str(2 * 1024 * 1024)}
        if self.kind == "compacted":
            config |= {"cleanup.policy": "compact", "delete.retention.ms": str(7 * _DAY_MS)}
        else:
            config |= {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS)}
        if self.log_append_time:
            config["message.timestamp.type"] = "LogAppendTime"
        return config

    def dead_letters(self, service: str) -> Topic:
        """Where `service` puts what it cannot apply."""
        return Topic(f"{self.name}.{service}.dlq", service, "log", (), False, self.content_type, self.key)


REGISTRY_EVENTS = Topic(
    "phantom.registry.events.v1",
    "registry",
    "log",
    (
        registry.ModelRegistered,
        registry.VersionCreated,
        registry.ModelTagged,
        registry.PromotionRequested,
        registry.PromotionDecided,
        registry.StageChanged,
        registry.LineageCreated,
        registry.DatasetRegistered,
    ),
    key="<workspace>/<model>",
)
DEPLOYER_EVENTS = Topic(
    "phantom.deployer.events.v1",
    "deployer",
    "log",
    (
        deployer.DeploymentCreated,
        deployer.RevisionAdded,
        deployer.RevisionReady,
        deployer.RevisionFailed,
        deployer.CanaryWeightSet,
        deployer.ShadowSet,
        deployer.CanaryRolledBack,
        deployer.RolloutCompleted,
        deployer.RolloutSwitchedBack,
        deployer.RevisionWithdrawn,
        deployer.ReplicaRestarted,
        deployer.DeploymentDeleted,
        deployer.RolloutTransitioned,
    ),
    key="<workspace>/<deployment>",
)
ROUTES = Topic(
    "phantom.routes.v1", "deployer", "compacted", (deployer.RouteRecord,), key="<workspace>/<endpoint>"
)
EXPERIMENTS = Topic(
    "phantom.experiments.v1",
    "experiment",
    "compacted",
    (experiment.ExperimentsRecord,),
    key="<workspace>/<endpoint>",
)
ROUTE_ACKS = Topic(
    "phantom.route-acks.v1",
    "inference-gateway",
    "log",
    (gateway.GatewayJoined, gateway.GatewayHeartbeat, gateway.GatewayLeft),
    log_append_time=True,
    key="<boot id>",
)
PREDICTIONS = Topic(
    "phantom.predictions.v1",
    "inference-gateway",
    "log",
    content_type="application/protobuf; message=phantom.predictions.v1.PredictionBatch",
    key="<workspace>/<endpoint>",
)
OUTCOMES = Topic(
    "phantom.outcomes.v1", "upstream", "log", (upstream.OutcomeReported,), key="<prediction or request id>"
)
DATA_ARRIVALS = Topic("phantom.data-arrivals.v1", "upstream", "log", (upstream.DataArrived,), key="<dataset>")
WINDOWS = Topic(
    "phantom.windows.v1",
    "monitor",
    "log",
    (monitor.WindowPublished, monitor.WindowsClosed),
    key="<workspace>/<endpoint>",
)
PIPELINE_EVENTS = Topic(
    "phantom.pipelines.events.v1",
    "pipelines",
    "log",
    (pipelines.ExecutionPhaseChanged, pipelines.StagePhaseChanged, pipelines.ApprovalDecided),
    key="<workspace>/<execution>",
)
ACCESS = Topic("phantom.access.v1", "governance", "compacted", (governance.AccessChanged,), key="<principal>")
KEYS = Topic("phantom.keys.v1", "governance", "compacted", (governance.KeyPublished,), key="<key id>")
AUDIT = Topic("phantom.audit.v1", "all", "log", (audit.CallAudited,), key="<principal>")

CATALOGUE: tuple[Topic, ...] = (
    REGISTRY_EVENTS,
    DEPLOYER_EVENTS,
    ROUTES,
    EXPERIMENTS,
    ROUTE_ACKS,
    PREDICTIONS,
    OUTCOMES,
    DATA_ARRIVALS,
    WINDOWS,
    PIPELINE_EVENTS,
    ACCESS,
    KEYS,
    AUDIT,
)

# The CloudEvents type of a PredictionBatch, whose value is protobuf.
PREDICTION_BATCH_TYPE = "phantom.gateway.PredictionsLogged.v1"
