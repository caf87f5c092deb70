"""Artifacts through the real server: what goes up comes down, to whom it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from phantom_platform.errors import Invalid
from phantom_platform.postgres import Database
from phantom_platform.testing.audit import assert_audited
from phantom_platform.testing.identity import Issuer
from phantom_registry.tests.conftest import (
    MODEL_BYTES,
    Running,
    digest_of,
    eventually,
    refused,
    running,
    upload,
)

CONTENT = bytes(range(256)) * 10_000


def open_files() -> list[str]:
    return [str(each.resolve()) for each in Path("/proc/self/fd").iterdir()]


def download(stub: RegistryServiceStub, digest: str) -> Any:
    return stub.DownloadArtifact(pb.DownloadArtifactRequest(digest=digest))


async def collected(stream: Any) -> bytes:
    return b"".join([each.chunk async for each in stream])


async def test_an_upload_comes_down_again_and_is_audited(registry: Running, ada: RegistryServiceStub) -> None:
    with assert_audited(registry.serving.registry):
        done = await upload(ada, CONTENT)
    assert (done.digest, done.size_bytes, done.created) == (digest_of(CONTENT), len(CONTENT), True)
    answers = [each async for each in download(ada, done.digest)]
    assert b"".join(each.chunk for each in answers) == CONTENT
    assert [each.size_bytes for each in answers] == [len(CONTENT)] + [0] * (len(answers) - 1)
    assert (await registry.audits())[-1]["resource"] == f"default/{done.digest}"


async def test_the_same_bytes_again_are_not_created_again(
    ada: RegistryServiceStub, files: Callable[[], Any]
) -> None:
    answers = await asyncio.gather(*(upload(ada, CONTENT) for _ in range(4)))
    assert sorted(each.created for each in answers) == [False, False, False, True]
    assert len(files()) == 1


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"digest": digest_of(b"other")}, "digest_mismatch"),
        ({"size_bytes": len(CONTENT) + 1}, "size_mismatch"),
        ({"size_bytes": 7}, "size_mismatch"),
        ({"size_bytes": 65 * 1024 * 1024}, "artifact_too_large"),
        ({"digest": "md5:00"}, "invalid_request"),
    ],
)
async def test_an_upload_that_is_not_as_announced_is_refused_and_leaves_nothing(
    registry: Running,
    ada: RegistryServiceStub,
    files: Callable[[], Any],
    header: dict[str, Any],
    code: str,
) -> None:
    await refused(code, upload(ada, CONTENT, **header))
    assert files() == []
    assert await registry.database.fetchval("SELECT count(*) FROM artifacts") == 0
    assert (await registry.audits())[-1]["outcome"] == "refused"


@pytest.mark.parametrize("parts", ["chunk first", "nothing", "two headers"])
async def test_messages_out_of_order_are_refused(
    ada: RegistryServiceStub, files: Callable[[], Any], parts: str
) -> None:
    header = pb.UploadArtifactRequest(
        header=pb.ArtifactHeader(file_name="m", digest=digest_of(CONTENT), size_bytes=len(CONTENT))
    )
    messages = {
        "chunk first": [pb.UploadArtifactRequest(chunk=b"x")],
        "nothing": [],
        "two headers": [header, header],
    }[parts]

    async def stream() -> AsyncIterator[pb.UploadArtifactRequest]:
        for each in messages:
            yield each

    error = await refused("upload_order", ada.UploadArtifact(stream()))
    assert isinstance(error, Invalid)
    assert files() == []


async def test_a_client_that_cancels_its_upload_leaves_no_file(
    ada: RegistryServiceStub, files: Callable[[], list[Path]]
) -> None:
    async def endless() -> AsyncIterator[pb.UploadArtifactRequest]:
        header = pb.ArtifactHeader(file_name="m", digest=digest_of(CONTENT), size_bytes=len(CONTENT))
        yield pb.UploadArtifactRequest(header=header)
        yield pb.UploadArtifactRequest(chunk=CONTENT[:1000])
        await asyncio.Event().wait()

    call = ada.UploadArtifact(endless())
    await eventually(lambda: len(files()) == 1)
    call.cancel()
    await eventually(lambda: not files())


async def test_a_client_that_breaks_off_a_download_leaves_no_open_file(ada: RegistryServiceStub) -> None:
    done = await upload(ada, CONTENT)
    call = download(ada, done.digest)
    await call.read()
    call.cancel()
    path = done.digest.removeprefix("sha256:")
    await eventually(lambda: not any(path in name for name in open_files()))


async def test_an_unknown_digest_is_not_found(ada: RegistryServiceStub) -> None:
    await refused("artifact_not_found", collected(download(ada, digest_of(b"nothing"))))


async def test_another_workspace_does_not_see_the_bytes_until_it_brings_them(
    registry: Running, ada: RegistryServiceStub
) -> None:
    done = await upload(ada, CONTENT)
    elsewhere = ada.DownloadArtifact(
        pb.DownloadArtifactRequest(digest=done.digest), metadata=[("phantom-workspace", "other")]
    )
    await refused("artifact_not_found", collected(elsewhere))


async def test_a_token_for_some_artifacts_reads_these_only(
    registry: Running, ada: RegistryServiceStub
) -> None:
    mine = (await upload(ada, CONTENT)).digest
    other = (await upload(ada, MODEL_BYTES)).digest
    replica = await registry.client("replica-1", "artifacts:read", artifacts=[mine])
    assert await collected(download(replica, mine)) == CONTENT
    await refused("artifact_not_in_scope", collected(download(replica, other)))
    broken = await registry.client("replica-2", "artifacts:read", artifacts="everything")
    await refused("artifact_not_in_scope", collected(download(broken, mine)))


async def test_reading_does_not_allow_writing(registry: Running) -> None:
    reader = await registry.client("eve", "artifacts:read")
    error = await refused("permission_missing", upload(reader, CONTENT))
    assert error.fields["permission"] == "artifacts:write"


async def test_a_crash_between_file_and_commit_is_healed_by_the_same_upload_again(
    database: Database, registry: Running, ada: RegistryServiceStub, tmp_path: Path, issuer: Issuer
) -> None:
    """The file is there first: without its row it promises nothing, and a retry finds nothing in its way."""
    path = registry.artifacts.path(digest_of(CONTENT))
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    path.chmod(0o444)
    await refused("artifact_not_found", collected(download(ada, digest_of(CONTENT))))
    async with running(database, tmp_path / "artifacts", issuer) as restarted:
        again = await restarted.client("ada")
        assert (await upload(again, CONTENT)).created
        assert await collected(download(again, digest_of(CONTENT))) == CONTENT


async def test_an_upload_whose_commit_fails_can_be_repeated(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await registry.database.fetch("ALTER TABLE artifacts RENAME TO artifacts_away")
    try:
        with pytest.raises(grpc.RpcError) as caught:
            await upload(ada, CONTENT)
        assert caught.value.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    finally:
        await registry.database.fetch("ALTER TABLE artifacts_away RENAME TO artifacts")
    assert (await upload(ada, CONTENT)).created
    assert await collected(download(ada, digest_of(CONTENT))) == CONTENT
