"""Our own serving stack without the control plane: a real Kafka, real model servers, the real gateway.

What the deployer would write, the benchmark writes through the contracts: launch files for model servers, the route
record and the experiment record on their topics. Processes get the environment that `phantom_local` gives them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phantom_contracts import topics
from phantom_contracts.events.deployer import BucketRange, Replica, RouteRecord, RouteRevision
from phantom_contracts.events.experiment import ExperimentsRecord, Gate, RunningExperiment
from phantom_contracts.launch import Artifact, LaunchFile, ReplicaFile
from phantom_contracts.schema import Feature, ModelSchema, endpoint_schema
from phantom_contracts.topics import Topic
from phantom_local.embedded.kafka import KafkaServer
from phantom_local.embedded.process import free_port
from phantom_local.stack import readiness
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.testing import events

from . import model
from .processes import Process
from .system import INFER, CannotMeasure, Headers

HERE = Path(__file__).parents[1]
UNITS = 256
# Experiment's share of the treatment, of 10,000.
TREATMENT = 1_000

TOPICS = (topics.ROUTES, topics.EXPERIMENTS, topics.ROUTE_ACKS, topics.PREDICTIONS, topics.KEYS)
Published = tuple[Topic, RouteRecord | ExperimentsRecord]


@dataclass(frozen=True)
class Revision:
    """A revision and who serves it: replica id → address."""

    id: str
    version: str
    replicas: Mapping[str, str]


def schema_of(features: int) -> ModelSchema:
    """Float features, two classes, the second one's probability is the score."""
    return ModelSchema(
        features=tuple(Feature(name=f"f{number}", type="float") for number in range(features)),
        class_labels=("no", "yes"),
        positive_label="yes",
    )


class Site:
    """Kafka, its topics and the model servers: what gateways need around them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self._kafka = KafkaServer(folder / "kafka")
        self._servers: dict[str, ModelServer] = {}

    @property
    def kafka(self) -> str:
        """host:port."""
        return self._kafka.bootstrap

    def start(self) -> None:
        """Kafka with the topics that gateways read and write."""
        self._kafka.start()
        asyncio.run(ensure_topics(self.kafka, TOPICS))

    def stop(self) -> None:
        """End the model servers and Kafka."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
        self._kafka.stop()

    def beside(self) -> dict[str, list[int]]:
        """What runs during a load besides the servers."""
        return {"kafka": [self._kafka.pid]}

    def pids(self, replicas: Sequence[str]) -> list[int]:
        """Processes of these model servers."""
        return [self._servers[each].pid for each in replicas]

    def serve(
        self,
        replica: str,
        revision: str,
        version: str,
        file: Path,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Start a model server of the benchmark's features; its address."""
        schema = schema_of(model.FEATURES)
        server = ModelServer(self.data_dir, replica, revision, version, file, schema)
        self._servers[replica] = server
        return server.start(environment or {})

    def publish(self, *records: Published) -> None:
        """Write endpoints' records as their owners do."""

        async def send() -> None:
            producer = Producer(self.kafka, client_id="benchmark")
            await producer.start()
            for topic, record in records:
                key = f"default/{record.endpoint}"
                await events.publish(producer, events.record(topic, key, record, version=record.version))
            await producer.stop()

        asyncio.run(send())


def experiments_record(
    endpoint: str, arms: Mapping[str, str], version: int, share: int = TREATMENT
) -> ExperimentsRecord:
    """A running experiment: each arm but control gets `share` of 10,000 buckets."""
    treatments = [arm for arm in arms if arm != "control"]
    running = RunningExperiment(
        id=f"{endpoint}-experiment",
        version=version,
        gate=Gate(salt="benchmark-gate"),
        salt="benchmark-arms",
        hash_field="user_id",
        allocations=tuple(
            BucketRange(start=number * share, end=(number + 1) * share, arm=arm)
            for number, arm in enumerate(treatments)
        ),
        arms=dict(arms),
    )
    return ExperimentsRecord(version=version, endpoint=endpoint, experiments=(running,))


def route_record(
    endpoint: str, revisions: Sequence[Revision], version: int, features: int = model.FEATURES
) -> RouteRecord:
    """The record that a deployer would write."""
    return RouteRecord(
        version=version,
        endpoint=endpoint,
        endpoint_schema=endpoint_schema([schema_of(features)]),
        salt="benchmark-rollout",
        arms={"control": revisions[0].id},
        revisions=tuple(
            RouteRevision(
                id=each.id,
                model_id="bench",
                model_version=each.version,
                replicas=tuple(Replica(id=name, address=where) for name, where in each.replicas.items()),
                model_schema=schema_of(features),
            )
            for each in revisions
        ),
    )


class ModelServer:
    """One `python -m phantom_model_server` with a launch file as the deployer writes it."""

    def __init__(
        self, data_dir: Path, replica: str, revision: str, version: str, file: Path, schema: ModelSchema
    ) -> None:
        folder = data_dir / "replicas"
        digest = _store(file, data_dir / "artifacts")
        self.replica_path = folder / f"{replica}.json"
        self._launch_path = folder / f"{replica}.launch.json"
        self._log = folder / f"{replica}.log"
        self._launch = LaunchFile(
            replica_id=replica,
            launch_id="benchmark",
            deployment_id=revision.rpartition(".")[0],
            revision=revision,
            model_id="bench",
            model_version=version,
            artifact=Artifact(digest=digest, file_name=file.name, framework="xgboost"),
            model_schema=schema,
            artifacts_dir=data_dir / "artifacts",
            download_dir=data_dir / "downloads",
            lock_path=folder / f"{replica}.lock",
            replica_path=self.replica_path,
            drain_key=os.urandom(16).hex(),
            drain_timeout_s=1.0,
        )
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self, environment: Mapping[str, str]) -> str:
        """Returns its address once it serves."""
        self._launch_path.parent.mkdir(parents=True, exist_ok=True)
        self._launch_path.write_text(self._launch.model_dump_json())
        argv = [sys.executable, "-m", "phantom_model_server", "--launch", str(self._launch_path)]
        self._process = Process(argv, self._log, environment)
        self._process.wait_until(self.replica_path.exists)
        said = ReplicaFile.model_validate_json(self.replica_path.read_bytes())
        if said.state != "ready":
            raise CannotMeasure(f"model server: {said.error_code}: {said.error_message}")
        return said.address

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()


def _store(file: Path, root: Path) -> str:
    """Put the file where artifacts lie; its digest."""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    place = root / "sha256" / sha256[:2] / sha256
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.write_bytes(file.read_bytes())
    return f"sha256:{sha256}"


class Gateway:
    """One real gateway as a system under test, in front of an endpoint whose records are published."""

    protocol = "grpc"
    path = INFER
    headers: Headers = ()

    def __init__(
        self,
        site: Site,
        endpoint: str,
        replicas: Sequence[str],
        *,
        name: str = "ours",
        features: int = model.FEATURES,
        environment: Mapping[str, str] | None = None,
        logs: bool = True,
    ) -> None:
        self.name = name
        self.address = ""
        self.set_endpoint(endpoint, replicas, features)
        self.site = site
        self._environment = dict(environment or {})
        self._module = "phantom_inference_gateway" if logs else "harness.silent_gateway"
        self._process: Process | None = None

    def set_endpoint(self, endpoint: str, replicas: Sequence[str], features: int = model.FEATURES) -> None:
        """Which endpoint the bodies are for, and who answers them."""
        self._replicas, self._features = tuple(replicas), features
        self.bodies = tuple(
            model.oip_request(1, model=endpoint, unit=f"unit-{number:03}", features=features)
            for number in range(UNITS)
        )
        self.bodies32 = tuple(
            model.oip_request(32, model=endpoint, unit=f"unit-{number:03}", features=features)
            for number in range(UNITS)
        )
        self.body, self.body32 = self.bodies[0], self.bodies32[0]

    def start(self) -> None:
        """Returns when it is ready, which is after its routes are applied."""
        ports = {name: free_port() for name in ("GRPC", "HTTP", "METRICS")}
        environment = {f"PHANTOM_GATEWAY_{name}_PORT": str(port) for name, port in ports.items()}
        environment |= {
            "PHANTOM_KAFKA_BOOTSTRAP": self.site.kafka,
            "PHANTOM_DATA_DIR": str(self.site.data_dir),
            "PHANTOM_GATEWAY_WORKER": self.name.replace(" ", "-"),
            **self._environment,
        }
        log = self.site.folder / f"gateway-{self.name}.log".replace(" ", "-")
        self._process = Process([sys.executable, "-m", self._module], log, environment, HERE)
        self.address, self.metrics_port = f"127.0.0.1:{ports['GRPC']}", ports["METRICS"]
        self._process.wait_until(lambda: readiness(ports["METRICS"]) == "")

    def parts(self) -> dict[str, list[int]]:
        """Processes by what they do."""
        assert self._process is not None
        return {"gateway": [self._process.pid], "model server": self.site.pids(self._replicas)}

    def pids(self) -> list[int]:
        return [pid for pids in self.parts().values() for pid in pids]

    def check(self, answer: bytes, rows: int = 1) -> None:
        found = model.oip_probabilities(answer, "score")
        model.check(found, rows, self._features)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


def usual_site(folder: Path) -> Site:
    """Endpoint `bench` with a 90/10 experiment over two revisions, endpoint `plain` without one; both served."""
    site = Site(folder)
    site.start()
    try:
        revisions = []
        for number in (1, 2):
            address = site.serve(f"r{number}", f"bench.{number}", f"1.{number}.0", model.file())
            revisions.append(Revision(f"bench.{number}", f"1.{number}.0", {f"r{number}": address}))
        arms = {"control": "bench.1", "treatment": "bench.2"}
        site.publish(
            (topics.ROUTES, route_record("bench", revisions, 1)),
            (topics.EXPERIMENTS, experiments_record("bench", arms, 2)),
            (topics.ROUTES, route_record("plain", revisions[:1], 3)),
        )
    except BaseException:
        site.stop()
        raise
    return site


def ours(site: Site, **options: object) -> Gateway:
    """The gateway with everything on."""
    return Gateway(site, "bench", ("r1", "r2"), **options)  # type: ignore[arg-type]


def bare(site: Site) -> Gateway:
    """The gateway with experiment and log off."""
    return Gateway(site, "plain", ("r1",), name="ours without experiment and log", logs=False)
