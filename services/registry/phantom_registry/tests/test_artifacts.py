"""The content-addressed store: whole files under their digest, or nothing."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from phantom_platform.errors import Exhausted, Invalid, NotFound, Refused
from phantom_registry.artifacts import LocalArtifacts
from phantom_registry.domain.values import Artifact
from phantom_registry.tests.conftest import MODEL_BYTES, digest_of, small_artifacts

CONTENT = b"x" * 2_500_000
WHOLE = Artifact(digest_of(CONTENT), len(CONTENT))


async def chunks(content: bytes, size: int = 1_000_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.fixture
async def store(tmp_path: Path) -> LocalArtifacts:
    store = small_artifacts(tmp_path / "artifacts")
    await store.start()
    return store


async def test_bytes_come_back_and_nobody_can_change_them(store: LocalArtifacts) -> None:
    await store.receive(WHOLE, chunks(CONTENT))
    assert b"".join([each async for each in await store.open(WHOLE)]) == CONTENT
    await store.check_intact(WHOLE)
    path = store.path(WHOLE.digest)
    assert path.parts[-3:] == ("sha256", WHOLE.digest[7:9], WHOLE.digest[7:])
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


@pytest.mark.parametrize(
    ("announced", "code"),
    [
        (Artifact(digest_of(b"other"), len(CONTENT)), "digest_mismatch"),
        (Artifact(WHOLE.digest, len(CONTENT) + 1), "size_mismatch"),
        (Artifact(WHOLE.digest, len(CONTENT) - 1), "size_mismatch"),
    ],
)
async def test_bytes_other_than_announced_leave_nothing(
    store: LocalArtifacts, files: Callable[[], Any], announced: Artifact, code: str
) -> None:
    with pytest.raises(Invalid) as caught:
        await store.receive(announced, chunks(CONTENT))
    assert caught.value.code == code
    assert files() == []


async def test_a_source_that_breaks_off_leaves_nothing(
    store: LocalArtifacts, files: Callable[[], Any]
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield CONTENT[:1000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.receive(WHOLE, broken())
    assert files() == []


async def test_a_cancelled_upload_leaves_nothing(store: LocalArtifacts, files: Callable[[], Any]) -> None:
    reached = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield CONTENT[:1000]
        reached.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(store.receive(WHOLE, stalled()))
    await reached.wait()
    assert len(files()) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert files() == []


async def test_what_is_too_large_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    store = small_artifacts(tmp_path / "artifacts", max_bytes=1000)
    await store.start()
    with pytest.raises(Exhausted) as caught:
        await store.receive(WHOLE, chunks(CONTENT))
    assert caught.value.code == "artifact_too_large"


async def test_what_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    store = small_artifacts(tmp_path / "artifacts", min_free_bytes=2**62)
    await store.start()
    with pytest.raises(Exhausted) as caught:
        await store.receive(WHOLE, chunks(CONTENT))
    assert caught.value.code == "disk_full"


async def test_many_uploads_of_the_same_bytes_at_once_end_in_one_file(
    store: LocalArtifacts, files: Callable[[], Any]
) -> None:
    await asyncio.gather(*(store.receive(WHOLE, chunks(CONTENT, 100_000)) for _ in range(8)))
    assert [path.name for path in files()] == [WHOLE.digest[7:]]
    await store.check_intact(WHOLE)


async def test_a_damaged_file_is_found_and_mended_by_uploading_again(store: LocalArtifacts) -> None:
    await store.receive(WHOLE, chunks(CONTENT))
    path = store.path(WHOLE.digest)
    path.chmod(0o644)
    path.write_bytes(b"y" + CONTENT[1:])
    with pytest.raises(Refused) as caught:
        await store.check_intact(WHOLE)
    assert caught.value.code == "artifact_damaged"
    await store.receive(WHOLE, chunks(CONTENT))
    await store.check_intact(WHOLE)


async def test_a_lost_file_is_missing_to_everybody(store: LocalArtifacts) -> None:
    with pytest.raises(Refused) as refused:
        await store.check_intact(WHOLE)
    with pytest.raises(NotFound) as not_found:
        await store.open(WHOLE)
    with pytest.raises(Refused) as no_format:
        await store.format_of(WHOLE)
    codes = {each.value.code for each in (refused, not_found, no_format)}
    assert codes == {"artifact_missing"}


async def test_formats_are_told_by_content_and_nothing_is_unpickled(
    store: LocalArtifacts, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    evil = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    for content, expected in ((MODEL_BYTES, "xgboost-json"), (evil, "pickle")):
        artifact = Artifact(digest_of(content), len(content))
        await store.receive(artifact, chunks(content))
        assert await store.format_of(artifact) == expected
    assert not mark.exists()
    await store.receive(WHOLE, chunks(CONTENT))
    with pytest.raises(Invalid) as caught:
        await store.format_of(WHOLE)
    assert caught.value.code == "unknown_format"


async def test_a_start_removes_what_a_killed_upload_left_and_spares_one_under_way(
    store: LocalArtifacts, tmp_path: Path, files: Callable[[], Any]
) -> None:
    left = tmp_path / "artifacts" / "incoming" / "left"
    left.write_bytes(b"half")
    running = asyncio.Event()
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield CONTENT[:1000]
        running.set()
        await go_on.wait()
        yield CONTENT[1000:]

    upload = asyncio.create_task(store.receive(WHOLE, slow()))
    await running.wait()
    await small_artifacts(tmp_path / "artifacts").start()
    assert not left.exists()
    go_on.set()
    await upload
    assert [path.name for path in files()] == [WHOLE.digest[7:]]


async def test_no_descriptor_stays_open(store: LocalArtifacts) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(Invalid):
            await store.receive(Artifact(digest_of(b""), 5), chunks(CONTENT))
    assert len(os.listdir("/proc/self/fd")) <= before
