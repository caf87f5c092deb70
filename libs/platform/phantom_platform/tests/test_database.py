import asyncio

import asyncpg
import pytest

from phantom_platform.clock import SystemClock
from phantom_platform.errors import Invalid, Unavailable
from phantom_platform.ids import uuid7
from phantom_platform.postgres import Database
from phantom_platform.postgres.failures import translated
from phantom_platform.postgres.migrations import migrate
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.integration


async def _versions(dsn: str, schema: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(f'SELECT version_num FROM "{schema}".schema_version')
        return {row[0] for row in rows}
    finally:
        await connection.close()


def _schema() -> str:
    return f"t{uuid7().hex[-12:]}"


def _write(folder, **files: str):
    for name, sql in files.items():
        (folder / f"{name[1:]}.sql").write_text(sql)
    return folder


async def test_pre_migrations_run_at_start_and_post_ones_when_told(postgres_dsn, tmp_path):
    schema = _schema()
    _write(
        tmp_path,
        _0001_pre_one="CREATE TABLE one (a int); INSERT INTO one VALUES (1);",
        _0002_post_two="ALTER TABLE one DROP COLUMN a;",
    )
    await migrate(postgres_dsn, schema, tmp_path)
    assert await _versions(postgres_dsn, schema) == {"platform_0001", "pre_0001"}
    await migrate(postgres_dsn, schema, tmp_path, branch="post")
    assert "post_0002" in await _versions(postgres_dsn, schema)


async def test_a_newer_pre_migration_waits_for_the_older_post_one(postgres_dsn, tmp_path):
    schema = _schema()
    _write(tmp_path, _0001_pre_one="CREATE TABLE one (a int);", _0002_post_two="DROP TABLE one;")
    await migrate(postgres_dsn, schema, tmp_path)
    _write(tmp_path, _0003_pre_three="CREATE TABLE one (b text);")
    await migrate(postgres_dsn, schema, tmp_path)
    assert await _versions(postgres_dsn, schema) >= {"pre_0003"}


async def test_many_processes_may_migrate_at_once(postgres_dsn, tmp_path):
    schema = _schema()
    _write(tmp_path, _0001_pre_one="CREATE TABLE one (a int);")
    await asyncio.gather(*(migrate(postgres_dsn, schema, tmp_path) for _ in range(4)))
    assert await _versions(postgres_dsn, schema) == {"platform_0001", "pre_0001"}


async def test_older_code_starts_on_a_newer_schema(postgres_dsn, tmp_path):
    schema = _schema()
    _write(tmp_path, _0001_pre_one="CREATE TABLE one (a int);", _0002_pre_two="CREATE TABLE two (a int);")
    await migrate(postgres_dsn, schema, tmp_path)
    (tmp_path / "0002_pre_two.sql").unlink()
    await migrate(postgres_dsn, schema, tmp_path)
    assert "pre_0002" in await _versions(postgres_dsn, schema)


async def test_a_failing_migration_leaves_nothing_and_stops_the_start(postgres_dsn, tmp_path):
    schema = _schema()
    _write(tmp_path, _0001_pre_one="CREATE TABLE one (a int); SELECT 1/0;")
    database = Database(postgres_dsn, schema, migrations=tmp_path, clock=SystemClock(), source="phantom/test")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.start()
    assert await _versions(postgres_dsn, schema) == {"platform_0001"}
    _write(tmp_path, _0001_pre_one="CREATE TABLE one (a int);")
    await database.start()
    assert await database.fetchval("SELECT count(*) FROM one") == 0
    await database.stop()


@pytest.mark.parametrize("names", [("0001_mid_x",), ("1_pre_x",), ("0001_pre_x", "0001_post_y")])
async def test_migrations_named_otherwise_are_refused(postgres_dsn, tmp_path, names):
    for name in names:
        (tmp_path / f"{name}.sql").write_text("SELECT 1")
    with pytest.raises(Invalid) as caught:
        await migrate(postgres_dsn, _schema(), tmp_path)
    assert caught.value.code == "migration_name"


async def test_a_missing_folder_and_a_bad_schema_are_refused(postgres_dsn, tmp_path):
    with pytest.raises(Invalid, match="no folder of migrations"):
        await migrate(postgres_dsn, _schema(), tmp_path / "missing")
    with pytest.raises(Invalid, match="schema"):
        Database(postgres_dsn, 'a"b', migrations=tmp_path, clock=SystemClock(), source="phantom/test")
    with pytest.raises(Invalid, match="source"):
        Database(postgres_dsn, "ab", migrations=tmp_path, clock=SystemClock(), source="test")


async def _sleep(database):
    async with database.transaction() as tx:
        await tx.fetchval("SELECT pg_sleep(30)")


async def test_a_connection_lost_in_a_transaction_is_unavailable_and_the_next_one_works(world):
    sleeping = asyncio.create_task(_sleep(world.database))
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' "
        "AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    await until(lambda: world.database.fetchval(kill))
    with pytest.raises(Unavailable) as caught:
        await sleeping
    assert caught.value.code == "postgres_unavailable"
    assert await world.database.fetchval("SELECT 1") == 1


async def test_a_deadlock_is_temporary(world):
    await world.database.fetch("INSERT INTO effect VALUES ('a', ''), ('b', '')")
    lock = "SELECT 1 FROM effect WHERE event_id = $1 FOR UPDATE"
    meeting = asyncio.Barrier(2)

    async def cross(first: str, second: str) -> None:
        async with world.database.transaction() as tx:
            await tx.execute(lock, first)
            await meeting.wait()
            await tx.execute(lock, second)

    results = await asyncio.gather(cross("a", "b"), cross("b", "a"), return_exceptions=True)
    failed = [each for each in results if each is not None]
    assert [type(each) for each in failed] == [Unavailable]
    assert failed[0].code == "transaction_interrupted"


async def _violate(database):
    async with database.transaction() as tx:
        await tx.execute(
            "INSERT INTO inbox (consumer, source, event_id) VALUES ('a', 'b', 'c'), ('a', 'b', 'c')"
        )


async def test_other_errors_of_postgres_pass_as_they_are(world):
    with pytest.raises(asyncpg.UniqueViolationError):
        await _violate(world.database)


async def test_a_database_that_is_not_started_is_unavailable(world):
    with pytest.raises(Unavailable, match="not started"):
        await world.another_database().fetchval("SELECT 1")


async def test_starting_waits_for_postgres(postgres_dsn, tmp_path):
    database = Database(
        "postgresql://x@127.0.0.1:1/x", "t", migrations=tmp_path, clock=SystemClock(), source="phantom/test"
    )
    starting = asyncio.create_task(database.start())
    done, _ = await asyncio.wait([starting], timeout=0.5)
    assert not done
    database._dsn = postgres_dsn
    await asyncio.wait_for(starting, 15)
    await database.stop()


def test_a_connection_that_reads_the_farewell_of_a_crashed_server_is_unavailable():
    # As asyncpg said it when Postgres was killed under an idle connection.
    said = "cannot switch to state 15; another operation (2) is in progress"
    with pytest.raises(Unavailable, match="Postgres is away"), translated():
        raise asyncpg.InternalClientError(said)
    with pytest.raises(asyncpg.InternalClientError), translated():
        raise asyncpg.InternalClientError("protocol out of order")
