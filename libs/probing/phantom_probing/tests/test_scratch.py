"""A scratch server: ready or an error in its own words, and gone afterwards whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from phantom_contracts.schema import Feature
from phantom_platform.errors import DeadlineExceeded, Invalid, Refused, Unavailable
from phantom_platform.testing.waiting import until
from phantom_probing.client import Client, Target
from phantom_probing.rows import invented
from phantom_probing.scratch import Running, ScratchSettings, Version, end_leftovers, running


def client_of(server: Running) -> Client:
    return Client(Target(server.address, server.version.model_id), server.version.model_schema)


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_version_answers_for_as_long_as_the_block_lasts(
    versions: dict[str, Version], settings: ScratchSettings
) -> None:
    version = versions["good"]
    async with running(version, settings) as server:
        async with Client(Target(server.address, "fraud"), version.model_schema) as client:
            answers = await client.infer(invented(version.model_schema, 7))
        assert answers.count == 7
        assert answers.model_version == "good"
        assert answers.labels is not None
        assert set(answers.labels) <= {"legit", "fraud"}
        assert answers.probabilities is not None
        assert answers.probabilities[:, 1] == pytest.approx(answers.scores)
    assert has_ended(server.pid)
    assert list(settings.folder.iterdir()) == []


async def test_a_regression_model_answers_values(
    versions: dict[str, Version], settings: ScratchSettings
) -> None:
    version = versions["price"]
    async with running(version, settings) as server, client_of(server) as client:
        answers = await client.infer(invented(version.model_schema, 3))
    assert answers.labels is None
    assert answers.values is not None
    assert len(answers.values) == 3


async def test_an_error_of_the_request_is_the_servers_own(
    versions: dict[str, Version], settings: ScratchSettings
) -> None:
    version = versions["good"]
    other = version.model_schema.model_copy(update={"features": (Feature(name="weight"),)})
    async with running(version, settings) as server, client_of(server) as client:
        with pytest.raises(Invalid, match="weight") as error:
            await client.infer(invented(other, 1))
    assert error.value.code == "unknown_feature"


async def test_other_bytes_than_registered_are_refused_in_the_servers_words(
    versions: dict[str, Version], settings: ScratchSettings
) -> None:
    with pytest.raises(Refused, match="sha256") as error:
        async with running(versions["damaged"], settings):
            pass
    assert error.value.code == "digest_mismatch"
    assert list(settings.folder.iterdir()) == []


async def test_an_artifact_that_is_nowhere_is_named(
    versions: dict[str, Version], settings: ScratchSettings
) -> None:
    missing = replace(versions["good"], digest=f"sha256:{'0' * 64}")
    with pytest.raises(Refused) as error:
        async with running(missing, settings):
            pass
    assert error.value.code == "artifact_not_found"
    away = replace(settings, registry_address="127.0.0.1:1")
    with pytest.raises(Unavailable) as temporary:
        async with running(missing, away):
            pass
    assert temporary.value.code == "registry_unavailable"


async def test_a_server_that_is_not_ready_in_time_is_ended(
    versions: dict[str, Version], settings: ScratchSettings
) -> None:
    hasty = replace(settings, ready_timeout_s=0.05)
    with pytest.raises(DeadlineExceeded) as error:
        async with running(versions["good"], hasty):
            pass
    assert error.value.code == "model_server_not_ready"
    assert list(settings.folder.iterdir()) == []


async def test_a_cancelled_caller_leaves_no_process(
    versions: dict[str, Version], settings: ScratchSettings
) -> None:
    pids: list[int] = []

    async def use() -> None:
        async with running(versions["good"], settings) as server:
            pids.append(server.pid)
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await until(lambda: pids)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # impatient
    with pytest.raises(asyncio.CancelledError):
        await task
    assert has_ended(pids[0])
    assert list(settings.folder.iterdir()) == []


async def test_what_a_killed_caller_left_is_ended_at_the_next_start_and_a_living_ones_is_not(
    versions: dict[str, Version], settings: ScratchSettings, tmp_path: Path
) -> None:
    said, script = tmp_path / "pid", tmp_path / "caller.py"
    script.write_text(CALLER)
    version = tmp_path / "version.json"
    version.write_text(versions["good"].model_schema.model_dump_json())
    arguments = [versions["good"].digest, version, settings.folder, settings.artifacts_dir, said]
    caller = await asyncio.to_thread(subprocess.Popen, [sys.executable, script, *map(str, arguments)])
    try:
        pid = int(await until(lambda: said.exists() and said.read_text(), within_s=60))
        assert end_leftovers(settings.folder) == 0
        assert not has_ended(pid)
    finally:
        os.kill(caller.pid, signal.SIGKILL)
        caller.wait()
    assert end_leftovers(settings.folder) == 1
    await until(lambda: has_ended(pid))
    assert list(settings.folder.iterdir()) == []


CALLER = """
import asyncio, sys
from pathlib import Path
from phantom_contracts.schema import ModelSchema
from phantom_probing.scratch import ScratchSettings, Version, running

digest, schema, folder, store, said = sys.argv[1:]

async def main():
    version = Version("fraud", "1", digest, "m.ubj", "xgboost",
                      ModelSchema.model_validate_json(Path(schema).read_text()))
    async with running(version, ScratchSettings(Path(folder), Path(store), Path(folder))) as server:
        Path(said).write_text(str(server.pid))
        await asyncio.Event().wait()

asyncio.run(main())
"""
