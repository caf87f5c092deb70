"""The servers we bring: they start, answer, and start again after kill -9 where they were before."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from phantom_local.embedded import jars, java
from phantom_local.embedded.kafka import KafkaServer, broker_count
from phantom_local.embedded.postgres import DropRoot, PostgresServer
from phantom_local.embedded.process import EmbeddedServer, Launch, ServerError, free_port, is_port_free

pytestmark = pytest.mark.integration


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "postgres", durable=False)
    server.start()
    yield server
    server.stop()


async def test_postgres_answers_over_its_socket_and_keeps_what_was_written_after_kill_9(
    postgres: PostgresServer,
) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    await connection.execute("create table kept (n int); insert into kept values (42)")
    os.kill(postgres.pid, signal.SIGKILL)
    dsn = postgres.dsn
    postgres.start()
    assert postgres.dsn == dsn
    connection = await asyncpg.connect(postgres.dsn)
    assert await connection.fetchval("select n from kept") == 42
    await connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
async def test_root_without_user_namespaces_starts_postgres_as_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("phantom_local.embedded.postgres.drop_root", lambda: DropRoot(user="nobody"))
    with tempfile.TemporaryDirectory() as folder:  # of mode 0700, as a data directory is
        server = PostgresServer(Path(folder) / "postgres", durable=False)
        server.start()
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("select 42") == 42
        await connection.close()
        assert psutil.Process(server.pid).username() == "nobody"
        server.stop()


def test_postgres_lets_nobody_else_connect(postgres: PostgresServer) -> None:
    assert postgres.socket_dir.stat().st_mode & 0o777 == 0o700


def test_postgres_starts_with_the_pid_file_of_a_stranger_left_behind(postgres: PostgresServer) -> None:
    postgres.stop()
    pid_file = postgres.data_dir / "cluster" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n1\n5432\n\n\n 1 1\nready\n")
    postgres.start()
    assert postgres.pid != os.getpid()


def test_postgres_refuses_a_cluster_that_is_being_served(postgres: PostgresServer) -> None:
    with pytest.raises(ServerError, match="already serves"):
        PostgresServer(postgres.data_dir).start()


def test_a_long_data_directory_gets_a_short_socket_path(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / ("deep" * 40))
    assert len(str(server.socket_dir)) < 100
    assert str(server.socket_dir) in server.dsn


async def test_kafka_keeps_port_and_records_after_kill_9(tmp_path: Path) -> None:
    server = KafkaServer(tmp_path / "kafka")
    server.start()
    try:
        await _send(server.bootstrap, create="kept")
        bootstrap = server.bootstrap
        os.kill(server.pid, signal.SIGKILL)
        server.start()
        assert server.bootstrap == bootstrap
        await _send(bootstrap)
        assert await _count(bootstrap) == 2
        again = KafkaServer(tmp_path / "kafka", port=server.port)
        assert again.prepare().argv[-2:] == ["kafka.Kafka", str(tmp_path / "kafka" / "server.properties")]
    finally:
        server.stop()
    assert broker_count("127.0.0.1", server.port, timeout_s=0.5) == 0


async def _send(bootstrap: str, create: str | None = None) -> None:
    """One record in one transaction."""
    if create:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        compacted = {"cleanup.policy": "compact"}
        await admin.create_topics([NewTopic(create, 1, 1, topic_configs=compacted)])
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id="t")
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait("kept", b"value", key=os.urandom(4))
    await producer.stop()


async def _count(bootstrap: str) -> int:
    consumer = AIOKafkaConsumer(
        "kept", bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    seen = 0
    while seen < 2:
        batch = await consumer.getmany(timeout_ms=10_000)
        assert batch
        seen += sum(len(records) for records in batch.values())
    await consumer.stop()
    return seen


class _Crashing(EmbeddedServer):
    """A server whose process writes a line and exits."""

    name = "crashing"

    def prepare(self, *, log: Path | None = None) -> Launch:
        return Launch([sys.executable, "-c", "print('out of luck'); exit(3)"], log or self.data_dir / "log")

    def is_ready(self, pid: int) -> bool:
        return False


def test_a_server_that_dies_at_start_is_refused_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="out of luck"):
        _Crashing(tmp_path).start()


def test_a_taken_port_is_seen() -> None:
    port = free_port()
    assert is_port_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_port_free(port)
    with socket.create_server(("0.0.0.0", port)):
        assert not is_port_free(port)


def test_jars_are_not_fetched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    libs = jars.ensure_jars()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert jars.ensure_jars() == libs
    assert list(libs.glob("kafka_2.13-*.jar"))
    assert not list(libs.glob("protovalidate*"))


def test_without_maven_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(jars.JarsMissingError, match="PHANTOM_KAFKA_BOOTSTRAP and PHANTOM_POSTGRES_DSN"):
        jars.ensure_jars(tmp_path)


def test_an_old_or_absent_java_is_refused_by_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.version_of(old) == 8
    monkeypatch.setattr(java, "_candidates", lambda: [old])
    with pytest.raises(java.JavaMissingError, match="is version 8"):
        java.find_java()
