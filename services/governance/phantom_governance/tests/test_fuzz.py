"""Whatever comes through the door, nobody gets an internal error and the service lives."""

import random

import grpc
import pytest

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom_platform import rpc
from phantom_platform.errors import Invalid, PhantomError
from phantom_platform.rpc.servicer import methods_of

SERVICE = "phantom.governance.v1.GovernanceService"
SEEDS = {
    "Login": pb.LoginRequest(username="fuzz", password="password"),
    "CreateUser": pb.CreateUserRequest(username="fuzz-er", password="pass word", permissions=["models:read"]),
    "ListUsers": pb.ListUsersRequest(page_size=3, page_token="YWRtaW4="),
    "ChangePassword": pb.ChangePasswordRequest(current_password="aaaaaaaa", new_password="bbbbbbbbc"),
    "WhoAmI": pb.WhoAmIRequest(),
    "IssueServiceToken": pb.IssueServiceTokenRequest(service="fuzz", key="key"),
    "IssueArtifactToken": pb.IssueArtifactTokenRequest(digests=["sha256:" + "0" * 64], subject="r-1"),
}


def mutated(random_: random.Random, seed: bytes) -> bytes:
    """Some bytes flipped, cut, doubled or inserted."""
    raw = bytearray(seed)
    for _ in range(random_.randint(1, 4)):
        place = random_.randint(0, len(raw))
        match random_.randint(0, 3):
            case 0 if place < len(raw):
                raw[place] = random_.choice([0, 0xFF, 0x80, random_.randint(0, 255)])
            case 1:
                del raw[place:]
            case 2:
                raw[place:place] = raw[:place]
            case _:
                raw[place:place] = random_.randbytes(random_.randint(1, 8))
    return bytes(raw[:4096])


@pytest.mark.parametrize("method", sorted(methods_of(SERVICE)))
async def test_no_bytes_make_an_internal_error(running, method):
    random_, seed = random.Random(method), SEEDS[method].SerializeToString()
    payloads = [mutated(random_, seed) for _ in range(150)]
    token = await running.admin()
    headers = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(running.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        internal = [raw for raw in payloads if await outcome(call, raw, headers) is PhantomError]
    assert internal == []


async def outcome(call, raw: bytes, headers) -> type | None:
    """The class of the error, None for an answer; PhantomError itself is what no table foresees."""
    try:
        await call(raw, metadata=headers, timeout=20)
    except grpc.RpcError as error:
        return type(rpc.from_rpc_error(error))
    return None


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Login", pb.LoginRequest(username="a\0b", password="x")),
        ("IssueServiceToken", pb.IssueServiceTokenRequest(service="a\0b", key="x")),
        ("ListUsers", pb.ListUsersRequest(page_token="AAA=")),
        ("CreateUser", pb.CreateUserRequest(username="nul", password="password1", request_id="\0")),
    ],
)
async def test_a_text_that_cannot_be_stored_is_the_callers_mistake(running, method, request_):
    headers = (("authorization", f"Bearer {await running.admin()}"),)
    async with grpc.aio.insecure_channel(running.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        with pytest.raises(Invalid) as refused, rpc.translated():
            await call(request_.SerializeToString(), metadata=headers, timeout=20)
    assert refused.value.code == "invalid_text"
