"""Fetching from a registry that behaves, is away, refuses or lies."""

import hashlib
from contextlib import asynccontextmanager

import grpc
import pytest

from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1 import registry_service_pb2_grpc as stubs
from phantom_contracts.launch import LaunchFile
from phantom_model_server import artifacts as fetching
from phantom_platform.errors import PhantomError

CONTENT = bytes(range(256)) * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Registry(stubs.RegistryServiceServicer):
    """Sends `content` in chunks to whoever brings the token; counts."""

    def __init__(self, content=CONTENT, fails_with=None, after=0):
        self.content, self.fails_with, self.after = content, fails_with, after
        self.calls = 0

    async def DownloadArtifact(self, request, context):
        self.calls += 1
        assert request.digest == f"sha256:{SHA256}"
        if ("authorization", "Bearer scoped") not in tuple(context.invocation_metadata()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        for at in range(0, len(self.content), 50_000):
            if self.fails_with is not None and at >= self.after:
                await context.abort(self.fails_with, "as the test wants it")
            yield pb.DownloadArtifactResponse(
                chunk=self.content[at : at + 50_000], size_bytes=len(self.content) if at == 0 else 0
            )


@asynccontextmanager
async def serving(registry):
    server = grpc.aio.server()
    stubs.add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.fixture
def launch(replica):
    def make(**fields):
        one = replica(artifact_token="scoped", **fields)
        one.launch["artifact"]["digest"] = f"sha256:{SHA256}"
        return LaunchFile.model_validate(one.launch)

    return make


def files(order):
    return sorted(path.name for path in order.download_dir.rglob("*") if path.is_file())


async def test_a_miss_is_fetched_once_checked_and_kept(launch):
    registry = Registry()
    async with serving(registry) as address:
        order = launch(registry_address=address)
        path = await fetching.find(order, 10)
        assert path.read_bytes() == CONTENT
        assert files(order) == [SHA256]
        assert await fetching.find(order, 10) == path
    assert registry.calls == 1
    assert await fetching.find(order, 10) == path  # with the registry away, too


async def test_a_damaged_copy_of_ones_own_is_fetched_again(launch):
    async with serving(Registry()) as address:
        order = launch(registry_address=address)
        path = await fetching.find(order, 10)
        path.write_bytes(CONTENT[:-1])
        assert (await fetching.find(order, 10)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("registry", "code"),
    [
        (Registry(CONTENT + b"!"), "digest_mismatch"),
        (Registry(CONTENT[:-1]), "digest_mismatch"),
        (Registry(b""), "digest_mismatch"),
        (Registry(fails_with=grpc.StatusCode.UNAVAILABLE, after=100_000), "registry_unavailable"),
        (Registry(fails_with=grpc.StatusCode.DATA_LOSS, after=100_000), "registry_unavailable"),
        (Registry(fails_with=grpc.StatusCode.NOT_FOUND), "artifact_not_found"),
        (Registry(fails_with=grpc.StatusCode.PERMISSION_DENIED), "artifact_token_refused"),
    ],
)
async def test_what_goes_wrong_is_said_and_leaves_nothing_behind(registry, code, launch):
    async with serving(registry) as address:
        order = launch(registry_address=address)
        with pytest.raises(PhantomError) as caught:
            await fetching.find(order, 10)
    assert caught.value.code == code
    assert files(order) == []


async def test_without_a_valid_token_nothing_is_sent(launch):
    async with serving(Registry()) as address:
        order = launch(registry_address=address).model_copy(update={"artifact_token": ""})
        with pytest.raises(PhantomError) as caught:
            await fetching.find(order, 10)
    assert caught.value.code == "artifact_token_refused"
