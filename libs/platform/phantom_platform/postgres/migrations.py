"""Migrations: plain SQL files, run by Alembic, one version table a schema.

`NNNN_pre_what.sql` is safe before the new code runs (it adds), `NNNN_post_what.sql` only after the old code is
gone (it removes). They are two branches of history; a file also waits for every lower number of the other
branch, so a `post` left over from the last release runs before a newer `pre`. The platform's own tables are a
third branch, before both. A database that is newer than this code is left as it is: `pre` migrations are safe
for the code before them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionMap
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from phantom_platform.errors import Invalid
from phantom_platform.telemetry import logs

log = logs.get(__name__)

VERSION_TABLE = "schema_version"
PLATFORM_MIGRATIONS = Path(__file__).parent / "platform_migrations"
_FILE = re.compile(r"(?P<number>\d{4})_(?P<branch>pre|post)_[a-z0-9_]+\.sql")


@dataclass(frozen=True)
class Migration:
    """One SQL file; `branch` is `platform`, `pre` or `post`."""

    number: int
    branch: str
    path: Path

    @property
    def revision(self) -> str:
        return f"{self.branch}_{self.number:04d}"


def read_migrations(folder: Path) -> list[Migration]:
    """The service's migrations in order of number. A file named otherwise, or a number twice, is refused."""
    if not folder.is_dir():
        raise Invalid(f"no folder of migrations at {folder}", code="migrations_missing")
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise Invalid(f"{path}: name it NNNN_pre_what.sql or NNNN_post_what.sql", code="migration_name")
        number = int(match["number"])
        if number in found:
            raise Invalid(f"{path}: number {number} is {found[number].path.name}'s", code="migration_name")
        found[number] = Migration(number, match["branch"], path)
    return list(found.values())


def _platform_migrations() -> list[Migration]:
    found = sorted(PLATFORM_MIGRATIONS.glob("*.sql"))
    return [Migration(int(path.name[:4]), "platform", path) for path in found]


async def migrate(dsn: str, schema: str, folder: Path, *, branch: str = "pre") -> None:
    """Bring `schema` (made if missing) up to the head of `branch`, under an advisory lock."""
    if branch not in ("pre", "post"):
        raise ValueError(f"branch {branch!r} is neither 'pre' nor 'post'")
    migrations = [*_platform_migrations(), *read_migrations(folder)]
    guard = await asyncpg.connect(dsn)
    try:
        await guard.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", f"phantom/migrate/{schema}")
        await guard.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        await _upgrade(dsn, schema, migrations, branch)
    finally:
        await guard.close()


async def _upgrade(dsn: str, schema: str, migrations: Sequence[Migration], branch: str) -> None:
    async def connect() -> Any:
        return await asyncpg.connect(dsn, server_settings={"search_path": f'"{schema}"'})

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run_alembic, schema, migrations, branch)
    finally:
        await engine.dispose()


def _run_alembic(connection: Connection, schema: str, migrations: Sequence[Migration], branch: str) -> None:
    if newer := _applied(connection, schema) - {each.revision for each in migrations}:
        log.warning(
            "schema is newer than this code", action="schema_newer", schema=schema, versions=sorted(newer)
        )
        return
    script = ScriptDirectory(str(PLATFORM_MIGRATIONS))
    script.revision_map = RevisionMap(lambda: _scripts(connection, migrations))
    branches = {each.branch for each in migrations}
    for name in ("platform", branch):
        if name in branches:
            _run_branch(connection, script, schema, f"{name}@head")
    connection.commit()


def _run_branch(connection: Connection, script: ScriptDirectory, schema: str, target: str) -> None:
    with EnvironmentContext(Config(), script) as environment:
        environment.configure(
            connection=connection,
            fn=lambda revision, _: script._upgrade_revs(target, revision),
            version_table=VERSION_TABLE,
            version_table_schema=schema,
            transaction_per_migration=True,
        )
        with environment.begin_transaction():
            environment.run_migrations()


def _applied(connection: Connection, schema: str) -> set[str]:
    table = f'"{schema}".{VERSION_TABLE}'
    exists = connection.execute(text("SELECT to_regclass(:name)"), {"name": table}).scalar()
    rows = connection.execute(text(f"SELECT version_num FROM {table}")) if exists else ()  # noqa: S608
    versions = {str(row[0]) for row in rows}
    connection.rollback()
    return versions


def _scripts(connection: Connection, migrations: Sequence[Migration]) -> list[Script]:
    """Alembic's view of the files: each follows the last of its branch, and waits for the other's."""
    last: dict[str, str] = {}
    scripts = []
    for each in migrations:
        others = [revision for branch, revision in last.items() if {branch, each.branch} == {"pre", "post"}]
        scripts.append(
            Script(_module(connection, each, last.get(each.branch), others), each.revision, each.path)
        )
        last[each.branch] = each.revision
    return scripts


def _module(
    connection: Connection, migration: Migration, down: str | None, waits_for: list[str]
) -> ModuleType:
    module: Any = ModuleType(migration.revision)
    module.__doc__ = migration.path.name
    module.down_revision = down
    module.depends_on = waits_for or None
    module.branch_labels = migration.branch if down is None else None
    sql = migration.path.read_text(encoding="utf-8")

    def upgrade() -> None:
        log.info("applying migration", action="migrate", file=migration.path.name)
        # The driver itself: SQLAlchemy would prepare the file, and a prepared statement is one statement.
        connection.connection.run_async(lambda driver: driver.execute(sql))

    module.upgrade = upgrade
    return module  # type: ignore[no-any-return]
