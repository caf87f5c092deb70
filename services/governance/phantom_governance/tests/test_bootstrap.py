"""What the first start leaves behind, and what later ones do not touch."""

import asyncpg

from phantom_contracts import topics
from phantom_governance.domain.principals import SERVICE_PERMISSIONS
from phantom_governance.tests.stack import assemble
from phantom_platform.identity.keys import KeySet
from phantom_platform.kafka import ensure_topics
from phantom_platform.testing.waiting import until


async def rows(dsn: str) -> dict[str, tuple]:
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetch(
            "SELECT name, kind, permissions, version, secret_hash"
            " FROM governance.principals JOIN governance.credentials ON principal = name"
        )
    finally:
        await connection.close()
    return {row["name"]: tuple(row)[1:] for row in found}


async def run_once(kafka: str, dsn: str, data_dir, keys: KeySet | None = None) -> None:
    app, _ = assemble(kafka, dsn, data_dir, keys)
    await app.start()
    await app.stop()


async def test_bootstrap_is_done_once_and_repaired_from_its_files(kafka_bootstrap, postgres_dsn, tmp_path):
    await ensure_topics(kafka_bootstrap, [topics.KEYS, topics.ACCESS, topics.AUDIT])
    await run_once(kafka_bootstrap, postgres_dsn, tmp_path)
    secrets_dir = tmp_path / "secrets"
    names = {each.name for each in secrets_dir.iterdir()}
    assert names == {"admin-password", "signing-key.pem", *(f"{each}.key" for each in SERVICE_PERMISSIONS)}
    assert {each.stat().st_mode & 0o777 for each in secrets_dir.iterdir()} == {0o600}
    texts = {each.name: each.read_text() for each in secrets_dir.iterdir()}
    first = await rows(postgres_dsn)
    assert set(first) == {"admin", *SERVICE_PERMISSIONS}
    assert first["admin"][:2] == ("user", ["*"])
    assert first["admin"][3].startswith("$argon2id$")

    await run_once(kafka_bootstrap, postgres_dsn, tmp_path)
    assert await rows(postgres_dsn) == first
    assert {each.name: each.read_text() for each in secrets_dir.iterdir()} == texts

    # A lost key file is replaced by a new key; a lost password file of an administrator who exists is not.
    (secrets_dir / "monitor.key").unlink()
    (secrets_dir / "admin-password").unlink()
    await run_once(kafka_bootstrap, postgres_dsn, tmp_path)
    later = await rows(postgres_dsn)
    assert later["monitor"][3] != first["monitor"][3]
    assert later["admin"] == first["admin"]
    assert not (secrets_dir / "admin-password").exists()

    # Permissions that a release changed are brought up to date, as a new version.
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("UPDATE governance.principals SET permissions = '{}' WHERE name = 'deployer'")
    await connection.close()
    await run_once(kafka_bootstrap, postgres_dsn, tmp_path)
    assert (await rows(postgres_dsn))["deployer"][1:3] == (list(SERVICE_PERMISSIONS["deployer"]), 2)


async def test_the_public_key_reaches_every_verifier(kafka_bootstrap, postgres_dsn, tmp_path):
    keys = KeySet()
    app, _ = assemble(kafka_bootstrap, postgres_dsn, tmp_path, keys)
    await app.start()
    try:
        await until(lambda: len(keys) > 0)
    finally:
        await app.stop()
