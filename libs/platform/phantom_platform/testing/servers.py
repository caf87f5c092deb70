"""Real servers for tests: Kafka and Postgres on free ports, in temporary folders.

`PHANTOM_TEST_KAFKA` (host:port) and `PHANTOM_TEST_POSTGRES` (a DSN that may create databases) name servers that
run already; then none is started.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from phantom_platform.ids import new_id


@contextmanager
def kafka() -> Iterator[str]:
    """A broker's `host:port`, for as long as the block lasts."""
    if given := os.environ.get("PHANTOM_TEST_KAFKA"):
        yield given
        return
    with _started("kafka", "KafkaServer") as server:
        yield server.bootstrap


@contextmanager
def postgres() -> Iterator[str]:
    """A server's DSN, for as long as the block lasts; `fresh_database` makes a database in it."""
    if given := os.environ.get("PHANTOM_TEST_POSTGRES"):
        yield given
        return
    with _started("postgres", "PostgresServer", durable=False) as server:
        yield server.dsn


async def fresh_database(server_dsn: str) -> str:
    """Creates an empty database and returns its DSN."""
    name = f"test_{new_id().replace('-', '')}"
    connection = await asyncpg.connect(server_dsn)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}"))


async def drop_database(server_dsn: str, database_dsn: str) -> None:
    """Removes what `fresh_database` made, whoever is still connected to it."""
    name = urlsplit(database_dsn).path.removeprefix("/")
    connection = await asyncpg.connect(server_dsn)
    try:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@contextmanager
def _started(module: str, name: str, **options: Any) -> Iterator[Any]:
    # By name: the platform is below `phantom_local`, which stands on it.
    server_class = getattr(importlib.import_module(f"phantom_local.embedded.{module}"), name)
    # Short: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix=f"phantom-{module}-"))
    server = server_class(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
