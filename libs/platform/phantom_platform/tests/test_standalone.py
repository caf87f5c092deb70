"""A whole process around a small service: what it says needs attention, and when older code's leftovers go."""

import asyncio

import aiohttp
import pytest

from phantom_platform.deadletters import DeadLetters
from phantom_platform.errors import Invalid
from phantom_platform.ids import uuid7
from phantom_platform.kafka import Projection
from phantom_platform.kafka.burial import bury
from phantom_platform.kafka.router import RawRecord, Router
from phantom_platform.lifecycle import Application
from phantom_platform.outgoing import Outgoing
from phantom_platform.postgres import Database, OutboxRelay
from phantom_platform.standalone import standalone
from phantom_platform.telemetry.http import MetricsServer
from phantom_platform.testing.events import publish, record
from phantom_platform.testing.waiting import until
from phantom_platform.tests.words import Entry, Said
from phantom_platform.upkeep import PostMigrations

pytestmark = pytest.mark.integration


@pytest.fixture
def process(world, tmp_path, monkeypatch):
    """Makes the process of one service, with the given migrations, on the session's servers."""
    settings = {
        "PHANTOM_KAFKA_BOOTSTRAP": world.kafka,
        "PHANTOM_POSTGRES_DSN": world.postgres,
        "PHANTOM_DATA_DIR": str(tmp_path / "data"),
        "PHANTOM_CONTROL_PORT": "0",
        "PHANTOM_METRICS_PORT": "0",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def make(migrations: dict[str, str], *parts) -> tuple[Application, Database]:
        folder = tmp_path / "migrations"
        folder.mkdir(exist_ok=True)
        for name, sql in migrations.items():
            (folder / f"{name}.sql").write_text(sql)
        schema = f"s{uuid7().hex[-12:]}"
        database = Database(
            world.postgres, schema, migrations=folder, clock=world.clock, source="phantom/test"
        )

        def build(context) -> Application:
            app = Application("test")
            app.add(database)
            app.add(OutboxRelay(database, context.producer, registry=context.registry))
            for part in parts:
                app.add(part)
            router = Router("test", group=schema)
            router.on(world.log, Said, lambda tx, received: asyncio.sleep(0))
            context.dead_letters.append(DeadLetters(router, database, context.clock))
            return app

        app = standalone("test", build)
        # Nobody publishes keys here.
        del app.readiness["keys"]
        return app, database

    return make


async def attention(app: Application) -> list[str]:
    port = next(part.port for part in app.parts if isinstance(part, MetricsServer))
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/ready") as response,
    ):
        return (await response.json())["attention"]


def routed_to(world, group: str) -> Router:
    router = Router("test", group=group)
    router.on(world.log, Said, lambda tx, received: asyncio.sleep(0))
    return router


async def test_readiness_tells_of_bad_records_and_of_dead_letters(world, process, running):
    table = Projection(
        world.table,
        world.kafka,
        parse=lambda key, value, headers: Entry.model_validate_json(value),
        on_changed=lambda key, value, version: None,
        on_deleted=lambda key, version: None,
    )
    app, database = process({}, table)
    await running(app)
    assert await attention(app) == []
    headers = record(world.table, "k", Entry(version=7, text="x"), version=7).headers
    await publish(world.producer, Outgoing(world.table.name, b"k", b"no entry", headers))
    raw = RawRecord(world.log.name, 0, 1, 1, b"default/a", b"\xff", [("ce_type", b"t")])
    async with database.transaction() as tx:
        assert await bury(tx, routed_to(world, database.schema), raw, Invalid("broken", code="undecodable"))
    said = await until(lambda: _both(app))
    assert any(f"{world.table.name}: version 7 of k cannot be applied" in each for each in said)
    assert any("test could not apply 1 record" in each for each in said)


async def _both(app: Application) -> list[str]:
    said = await attention(app)
    return said if len(said) == 2 else []


async def test_post_migrations_are_applied_once_ready_where_told(world, process, running, monkeypatch):
    monkeypatch.setenv("PHANTOM_RUN_POST_MIGRATIONS", "true")
    app, database = process(
        {"0001_pre_one": "CREATE TABLE one (a int, b int)", "0002_post_two": "ALTER TABLE one DROP COLUMN a"}
    )
    await running(app)
    await until(lambda: _columns(database, "b"))
    assert await attention(app) == []


async def test_post_migrations_wait_where_not_told(world, process, running, monkeypatch):
    monkeypatch.delenv("PHANTOM_RUN_POST_MIGRATIONS", raising=False)
    app, database = process(
        {"0001_pre_one": "CREATE TABLE one (a int, b int)", "0002_post_two": "ALTER TABLE one DROP COLUMN a"}
    )
    await running(app)
    assert not any(isinstance(part, PostMigrations) for part in app.parts)
    assert await _columns(database, "a,b")


async def test_a_post_migration_that_fails_is_told_and_the_service_goes_on(process, running, monkeypatch):
    monkeypatch.setenv("PHANTOM_RUN_POST_MIGRATIONS", "true")
    app, database = process({"0001_pre_one": "CREATE TABLE one (a int)", "0002_post_two": "DROP TABLE two"})
    await running(app)
    said = await until(lambda: attention(app))
    assert f"a post migration of {database.schema} failed" in said[0]
    assert app.unready() == {}
    assert await _columns(database, "a")


async def test_post_migrations_wait_until_the_process_is_ready():
    class Recorded:
        schema = "s"
        calls = 0

        async def run_post_migrations(self) -> None:
            self.calls += 1

    database, reasons = Recorded(), {"lifecycle": "starting"}
    part = PostMigrations([database], lambda: reasons)
    await part.start()
    try:
        await asyncio.sleep(0.05)
        assert database.calls == 0
        reasons.clear()
        await asyncio.wait_for(part.done.wait(), 5)
        assert database.calls == 1
    finally:
        await part.stop()


async def _columns(database: Database, wanted: str) -> bool:
    sql = """SELECT string_agg(column_name, ',' ORDER BY column_name) FROM information_schema.columns
             WHERE table_schema = $1 AND table_name = 'one'"""
    return await database.fetchval(sql, database.schema) == wanted
