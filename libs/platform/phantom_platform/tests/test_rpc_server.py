"""The server as a whole: set-up mistakes, ports, health, reflection, and what every proto must say."""

import asyncio
import importlib
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client import CollectorRegistry

import phantom
from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom.modelserver.v1 import model_server_service_pb2  # noqa: F401 - loads the service
from phantom_platform import rpc
from phantom_platform.errors import Exhausted, Refused, Unavailable
from phantom_platform.rpc.client import TokenSource
from phantom_platform.rpc.servicer import methods_of
from phantom_platform.testing.audit import MemoryAuditSink
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import serving, standing_in

GOVERNANCE = "phantom.governance.v1.GovernanceService"


def governance(**methods):
    return standing_in(GOVERNANCE, audit=MemoryAuditSink(), **methods)


def server_of(*servicers, verifier=None, port=0) -> rpc.GrpcServer:
    return rpc.GrpcServer(
        servicers, host="127.0.0.1", port=port, verifier=verifier, registry=CollectorRegistry()
    )


def every_service() -> list[str]:
    """The full names of all services in the phantom.* protos."""
    root = Path(next(iter(phantom.__path__)))
    names = [path.relative_to(root.parent).with_suffix("").parts for path in root.rglob("*_pb2.py")]
    loaded = [importlib.import_module(".".join(parts)) for parts in names]
    return sorted(each.full_name for module in loaded for each in module.DESCRIPTOR.services_by_name.values())


@pytest.mark.parametrize("service", every_service())
def test_every_rpc_says_who_may_call_it(service):
    methods = methods_of(service)
    assert methods
    for method in methods.values():
        assert method.is_public or ":" in method.permission, method.path


def test_a_method_without_an_access_option_is_refused_at_set_up():
    assert descriptor_pool.Default().FindServiceByName("grpc.health.v1.Health")
    with pytest.raises(rpc.ServicerError, match="exactly one of permission and public"):
        methods_of("grpc.health.v1.Health")


def test_an_unknown_service_is_refused_at_set_up():
    with pytest.raises(rpc.ServicerError, match="no service"):
        methods_of("phantom.nowhere.v1.NoService")


def test_mutating_methods_need_an_audit_sink():
    with pytest.raises(rpc.ServicerError, match="DatabaseAuditSink"):
        server_of(standing_in(GOVERNANCE), verifier=Issuer().verifier)


def test_methods_with_permissions_need_a_verifier():
    with pytest.raises(rpc.ServicerError, match="verifier"):
        server_of(governance())


def test_a_service_whose_methods_are_public_needs_no_verifier():
    server_of(standing_in("phantom.modelserver.v1.ModelServerService"))


def test_a_method_that_nobody_implemented_is_refused_at_set_up():
    class Half(stubs.GovernanceServiceServicer):
        async def Login(self, request, context):
            return pb.LoginResponse()

    Half.__abstractmethods__ = frozenset()
    add = stubs.add_GovernanceServiceServicer_to_server
    with pytest.raises(rpc.ServicerError, match="must be implemented as a coroutine function"):
        server_of(rpc.servicer(add, Half(), GOVERNANCE, audit=MemoryAuditSink()), verifier=Issuer().verifier)


def test_a_service_is_served_once():
    with pytest.raises(rpc.ServicerError, match="twice"):
        server_of(governance(), governance(), verifier=Issuer().verifier)


def test_a_servicer_under_a_wrong_name_is_refused():
    wrong = rpc.servicer(
        stubs.add_GovernanceServiceServicer_to_server, object(), "phantom.registry.v1.RegistryService"
    )
    with pytest.raises((rpc.ServicerError, AttributeError)):
        server_of(wrong, verifier=Issuer().verifier)


async def test_a_taken_port_is_refused_and_not_shared():
    issuer = Issuer()
    async with serving(governance(), verifier=issuer.verifier) as server:
        second = server_of(governance(), verifier=issuer.verifier, port=server.server.port)
        with pytest.raises(Refused, match="PHANTOM_CONTROL_PORT") as refused:
            await second.start()
    assert refused.value.code == "address_in_use"


async def test_health_follows_readiness_and_is_open_to_everybody():
    reasons: dict[str, str] = {}
    issuer = Issuer()
    async with (
        serving(governance(), verifier=issuer.verifier, unready=lambda: reasons) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", GOVERNANCE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        reasons["relay"] = "Kafka is away"
        async with asyncio.timeout(5):
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_to_everybody():
    async with serving(governance(), verifier=Issuer().verifier) as server:

        def ask() -> list[str]:
            with grpc.insecure_channel(server.address) as channel:
                return list(ProtoReflectionDescriptorDatabase(channel).get_services())

        services = await asyncio.to_thread(ask)
    assert GOVERNANCE in services
    assert "grpc.health.v1.Health" in services


async def test_a_message_of_64_mib_passes_and_a_larger_one_is_refused():
    async def login(request, context):
        return pb.LoginResponse()

    # username and password are short by their rules; an unknown field may be as long as it likes
    def padded(size: int) -> bytes:
        request = pb.LoginRequest(username="a", password="b").SerializeToString()
        length = bytearray()
        rest = size
        while rest > 127:
            length.append(rest & 127 | 128)
            rest >>= 7
        length.append(rest)
        return request + b"\xa2\x06" + bytes(length) + bytes(size)

    async with (
        serving(governance(Login=login), verifier=Issuer().verifier) as server,
        grpc.aio.insecure_channel(server.address, options=rpc.message_options(200 << 20)) as channel,
    ):
        call = channel.unary_unary(f"/{GOVERNANCE}/Login")
        await call(padded(64 << 20), timeout=30)
        with pytest.raises(Exhausted), rpc.translated():
            await call(padded(70 << 20), timeout=30)


async def test_a_server_that_is_away_is_unavailable():
    async with serving(governance(), verifier=Issuer().verifier) as server:
        address = server.address
    async with rpc.control_channel(address, FixedToken("x")) as channel:
        with pytest.raises(Unavailable), rpc.translated():
            await stubs.GovernanceServiceStub(channel).WhoAmI(pb.WhoAmIRequest(), timeout=10)


class Issuing:
    """Governance as a token source sees it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.issued = 0
        self.is_away = False

    async def __call__(self, request, context):
        if self.is_away:
            raise Unavailable("Postgres is away")
        assert (request.service, request.key) == ("deployer", "the-key")
        self.issued += 1
        token = pb.Token(value=f"token-{self.issued}")
        token.expires_at.seconds = int(self.clock.now().timestamp()) + 3600
        return pb.IssueServiceTokenResponse(token=token)


async def test_a_service_token_is_renewed_at_two_thirds_of_its_life_and_outlives_an_outage(tmp_path):
    clock = FakeClock()
    issuing = Issuing(clock)

    async def issue(request, context):
        return await issuing(request, context)

    key_file = tmp_path / "deployer.key"
    async with serving(governance(IssueServiceToken=issue), verifier=Issuer().verifier) as server:
        source = TokenSource(server.address, "deployer", key_file, clock)
        with pytest.raises(Refused, match="governance writes it"):
            await source.token()
        key_file.write_text("the-key\n")
        assert {await each for each in [source.token() for _ in range(5)]} == {"token-1"}
        clock.advance(2399)
        assert await source.token() == "token-1"
        clock.advance(2)
        assert await source.token() == "token-2"
        issuing.is_away = True
        clock.advance(2401)
        assert await source.token() == "token-2"
        clock.advance(1200)
        with pytest.raises(Unavailable):
            await source.token()
        issuing.is_away = False
        assert await source.token() == "token-3"
