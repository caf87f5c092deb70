"""Real grpc.aio servers and channels: what every call passes through."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom.modelserver.v1 import model_server_service_pb2 as model_pb
from phantom.modelserver.v1 import model_server_service_pb2_grpc as model_stubs
from phantom.registry.v1 import registry_service_pb2 as registry_pb
from phantom.registry.v1 import registry_service_pb2_grpc as registry_stubs
from phantom_platform import audit, rpc
from phantom_platform.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    Exhausted,
    Forbidden,
    Invalid,
    NotFound,
    PhantomError,
    Refused,
    Unauthenticated,
    Unavailable,
    Unsupported,
    Violation,
)
from phantom_platform.rpc.server import ServerLimits
from phantom_platform.rpc.status import to_status
from phantom_platform.testing.audit import MemoryAuditSink, assert_audited
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import serving, standing_in

GOVERNANCE = "phantom.governance.v1.GovernanceService"
REGISTRY = "phantom.registry.v1.RegistryService"
DIGEST = "sha256:" + "0" * 64


def governance(sink: MemoryAuditSink | None = None, **methods):
    return standing_in(GOVERNANCE, audit=sink or MemoryAuditSink(), **methods)


def registry(**methods):
    return standing_in(REGISTRY, audit=MemoryAuditSink(), **methods)


async def who_am_i(request, context):
    caller = rpc.current_caller()
    return pb.WhoAmIResponse(principal=caller.principal, permissions=sorted(caller.permissions))


async def call_who_am_i(address: str, token: str | None) -> pb.WhoAmIResponse:
    tokens = FixedToken(token) if token is not None else None
    with rpc.translated():
        async with rpc.control_channel(address, tokens) as channel:
            return await stubs.GovernanceServiceStub(channel).WhoAmI(pb.WhoAmIRequest(), timeout=10)


async def test_a_valid_token_reaches_the_handler_as_its_caller():
    issuer = Issuer()
    async with serving(governance(WhoAmI=who_am_i), verifier=issuer.verifier) as server:
        answer = await call_who_am_i(server.address, issuer.token("ada", "users:read-self", "models:*"))
    assert answer.principal == "ada"
    assert list(answer.permissions) == ["models:*", "users:read-self"]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda issuer: None, "token_missing"),
        (lambda issuer: "not.a.token", "token_malformed"),
        (lambda issuer: "x" * 7_500, "token_malformed"),
        (lambda issuer: issuer.token("ada", "*", life_s=-1), "token_expired"),
        (lambda issuer: Issuer().token("ada", "*"), "token_forged"),
        (lambda issuer: Issuer(kid="other").token("ada", "*"), "token_unknown_key"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_a_token_that_proves_nothing_is_refused_saying_why(make, code):
    issuer = Issuer()
    async with serving(governance(WhoAmI=who_am_i), verifier=issuer.verifier) as server:
        with pytest.raises(Unauthenticated) as refused:
            await call_who_am_i(server.address, make(issuer))
    assert refused.value.code == code


async def test_a_changed_claim_makes_a_token_forged():
    issuer = Issuer()
    head, _, signature = issuer.token("ada", "users:read-self").split(".")
    claims = Issuer().token("ada", "*").split(".")[1]
    async with serving(governance(WhoAmI=who_am_i), verifier=issuer.verifier) as server:
        with pytest.raises(Unauthenticated) as refused:
            await call_who_am_i(server.address, f"{head}.{claims}.{signature}")
    assert refused.value.code == "token_forged"


async def test_an_unsigned_token_is_refused():
    unsigned = "eyJhbGciOiJub25lIiwia2lkIjoidGVzdC1rZXkifQ.eyJzdWIiOiJhZGEifQ."
    async with serving(governance(WhoAmI=who_am_i), verifier=Issuer().verifier) as server:
        with pytest.raises(Unauthenticated) as refused:
            await call_who_am_i(server.address, unsigned)
    assert refused.value.code == "token_malformed"


async def test_a_remembered_token_still_expires_and_still_needs_its_key():
    issuer = Issuer(FakeClock())
    token = issuer.token("ada", "users:read-self", life_s=60)
    other = issuer.token("ada", "users:read-self", life_s=600)
    async with serving(governance(WhoAmI=who_am_i), verifier=issuer.verifier) as server:
        await call_who_am_i(server.address, token)
        await call_who_am_i(server.address, other)
        issuer.clock.advance(60)
        with pytest.raises(Unauthenticated, match="expired"):
            await call_who_am_i(server.address, token)
        issuer.keys.remove("test-key")
        with pytest.raises(Unauthenticated) as refused:
            await call_who_am_i(server.address, other)
    assert refused.value.code == "token_unknown_key"


async def test_a_token_may_arrive_a_moment_before_its_key():
    issuer = Issuer()
    token = issuer.token("ada", "users:read-self")
    issuer.keys.remove("test-key")
    async with serving(governance(WhoAmI=who_am_i), verifier=issuer.verifier) as server:
        call = asyncio.create_task(call_who_am_i(server.address, token))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(
            0.05, issuer.keys.put, "test-key", issuer.key.private.public_key()
        )
        assert (await call).principal == "ada"


async def test_an_insufficient_token_is_told_which_permission_is_missing():
    issuer, sink = Issuer(), MemoryAuditSink()
    async with serving(governance(sink, WhoAmI=who_am_i), verifier=issuer.verifier) as server:
        with pytest.raises(Forbidden) as refused:
            await call_who_am_i(server.address, issuer.token("ada", "models:read"))
    assert refused.value.fields["permission"] == "users:read-self"
    assert "users:read-self" in refused.value.message
    [(context, code)] = sink.refusals
    assert (context.principal, context.action, code) == ("ada", f"/{GOVERNANCE}/WhoAmI", "permission_missing")


async def test_another_workspace_needs_a_token_that_names_it():
    issuer = Issuer()
    token = issuer.token("ada", "*", workspaces=("default", "lab"))
    seen = []

    async def list_users(request, context):
        seen.append(rpc.current_caller().workspace)
        return pb.ListUsersResponse()

    async with (
        serving(governance(ListUsers=list_users), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(token)) as channel,
    ):
        stub = stubs.GovernanceServiceStub(channel)
        await stub.ListUsers(pb.ListUsersRequest(), metadata=(("phantom-workspace", "lab"),))
        with pytest.raises(Forbidden, match="secret"), rpc.translated():
            await stub.ListUsers(pb.ListUsersRequest(), metadata=(("phantom-workspace", "secret"),))
        with pytest.raises(Invalid), rpc.translated():
            await stub.ListUsers(pb.ListUsersRequest(), metadata=(("phantom-workspace", "A B"),))
    assert seen == ["lab"]


ERRORS = [
    (NotFound("no such model", code="model_not_found", model="m"), grpc.StatusCode.NOT_FOUND),
    (AlreadyExists(), grpc.StatusCode.ALREADY_EXISTS),
    (Conflict(), grpc.StatusCode.ABORTED),
    (Refused(), grpc.StatusCode.FAILED_PRECONDITION),
    (Exhausted(), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unauthenticated(), grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden(), grpc.StatusCode.PERMISSION_DENIED),
    (Unsupported(), grpc.StatusCode.UNIMPLEMENTED),
    (DeadlineExceeded(), grpc.StatusCode.DEADLINE_EXCEEDED),
    (Invalid(violations=[Violation("a.b[2]", "is odd")]), grpc.StatusCode.INVALID_ARGUMENT),
    (Unavailable(retry_after_s=2.5), grpc.StatusCode.UNAVAILABLE),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda each: type(each).__name__)
async def test_every_error_arrives_as_itself(error, status):
    async def login(request, context):
        raise error

    async with (
        serving(governance(Login=login), verifier=Issuer().verifier) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(grpc.RpcError) as raised:
            await stubs.GovernanceServiceStub(channel).Login(pb.LoginRequest(username="a", password="b"))
    assert raised.value.code() is status
    back = rpc.from_rpc_error(raised.value)
    assert (type(back), back.code, back.message, back.fields) == (
        type(error),
        error.code,
        error.message,
        error.fields,
    )
    if isinstance(error, Invalid):
        assert back.violations == error.violations
    if isinstance(error, Unavailable):
        assert back.retry_after_s == 2.5


@pytest.mark.parametrize(
    ("error", "delay_s"),
    [
        (Unavailable(retry_after_s=2.5), 2.5),
        (Exhausted("wait", code="overloaded", retry_after_s=1.5), 1.5),
        (Exhausted("too large"), None),
        (NotFound(), None),
    ],
)
def test_a_status_says_when_to_try_again_where_that_is_known(error, delay_s):
    told = error_details_pb2.RetryInfo()
    found = [each.Unpack(told) for each in to_status(error).details]
    assert any(found) is (delay_s is not None)
    assert told.retry_delay.seconds + told.retry_delay.nanos / 1e9 == (delay_s or 0)


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\n"])
async def test_a_very_long_error_is_cut_rather_than_lost(letter):
    violations = [Violation(f"field_{n}" * 100, letter * 1000) for n in range(500)]

    async def login(request, context):
        fields = {f"f{n}": letter * 5000 for n in range(100)}
        raise Invalid(letter * 100_000, violations=violations, **fields)

    async with (
        serving(governance(Login=login), verifier=Issuer().verifier) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(Invalid) as raised, rpc.translated():
            await stubs.GovernanceServiceStub(channel).Login(pb.LoginRequest(username="a", password="b"))
    assert raised.value.message.startswith(letter * 100)
    assert raised.value.fields
    assert raised.value.violations


async def test_an_unforeseen_error_tells_its_incident_and_nothing_else(caplog):
    async def login(request, context):
        raise RuntimeError("the database password is hunter2")

    async with (
        serving(governance(Login=login), verifier=Issuer().verifier) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(grpc.RpcError) as raised:
            await stubs.GovernanceServiceStub(channel).Login(pb.LoginRequest(username="a", password="b"))
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(raised.value)
    error = rpc.from_rpc_error(raised.value)
    assert type(error) is PhantomError
    assert error.fields["incident"] in error.message


async def test_a_rule_of_the_proto_is_checked_before_the_handler_with_field_paths():
    issuer, sink, handled = Issuer(), MemoryAuditSink(), []

    async def issue(request, context):
        handled.append(request)
        return pb.IssueArtifactTokenResponse()

    async with (
        serving(governance(sink, IssueArtifactToken=issue), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("deployer", "*"))) as channel,
    ):
        stub = stubs.GovernanceServiceStub(channel)
        with pytest.raises(Invalid) as refused, rpc.translated():
            await stub.IssueArtifactToken(pb.IssueArtifactTokenRequest(digests=[DIGEST, "md5:1"]))
    assert [each.field for each in refused.value.violations] == ["digests[1]", "subject"]
    assert handled == []
    assert [(context.principal, code) for context, code in sink.refusals] == [("deployer", "invalid_request")]


async def test_validation_details_are_the_standard_ones():
    async with (
        serving(governance(), verifier=Issuer().verifier) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(grpc.RpcError) as raised:
            await stubs.GovernanceServiceStub(channel).Login(pb.LoginRequest(password="b"))
    raw = dict(raised.value.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    kinds = [detail.TypeName() for detail in status.details]
    assert kinds == ["google.rpc.ErrorInfo", "google.rpc.BadRequest"]
    bad = error_details_pb2.BadRequest()
    status.details[1].Unpack(bad)
    assert bad.field_violations[0].field == "username"


@pytest.mark.parametrize("garbage", [b"\x0a\xff\xff\xff\xff\x0fabc", b"\x0a\x01\xff", b"\xff"])
async def test_bytes_that_are_no_request_are_the_callers_mistake(garbage):
    async with (
        serving(governance(), verifier=Issuer().verifier) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with pytest.raises(Invalid) as refused, rpc.translated():
            await channel.unary_unary(f"/{GOVERNANCE}/Login")(garbage)
    assert refused.value.code == "unparsable_request"


async def test_a_handler_that_never_ends_meets_the_servers_own_deadline():
    async def login(request, context):
        await asyncio.Event().wait()

    limits = ServerLimits(max_unary_s=0.1, drain_s=1)
    async with (
        serving(governance(Login=login), verifier=Issuer().verifier, limits=limits) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(DeadlineExceeded), rpc.translated():
            await stubs.GovernanceServiceStub(channel).Login(pb.LoginRequest(username="a", password="b"))


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_a_caller_who_is_gone_stops_the_handler(how):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def login(request, context):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with (
        serving(governance(Login=login), verifier=Issuer().verifier) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        timeout = 0.2 if how == "deadline" else None
        request = pb.LoginRequest(username="a", password="b")
        call = stubs.GovernanceServiceStub(channel).Login(request, timeout=timeout)
        waiting = asyncio.ensure_future(call)
        await asyncio.wait_for(begun.wait(), 5)
        if how == "cancel":
            waiting.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
            await waiting


async def test_a_mutating_call_carries_its_audit_context_and_a_reading_one_does_not():
    issuer, seen = Issuer(), []

    async def create(request, context):
        seen.append(audit.audit_context.get())
        audit.audit_context.get().recorded = True
        return pb.CreateUserResponse()

    async def list_users(request, context):
        seen.append(audit.audit_context.get())
        return pb.ListUsersResponse()

    servicer = governance(CreateUser=create, ListUsers=list_users)
    async with (
        serving(servicer, verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("ada", "*"))) as channel,
    ):
        stub = stubs.GovernanceServiceStub(channel)
        with assert_audited(server.registry):
            await stub.CreateUser(pb.CreateUserRequest(username="b", password="p", request_id="r1"))
        await stub.ListUsers(pb.ListUsersRequest())
    assert (seen[0].principal, seen[0].request_id) == ("ada", "r1")
    assert len(seen[0].trace_id) in (0, 32)
    assert seen[1] is None


async def test_a_mutating_call_without_a_record_fails_the_audit_check():
    issuer = Issuer()

    async def create(request, context):
        return pb.CreateUserResponse()

    async with (
        serving(governance(CreateUser=create), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("ada", "*"))) as channel,
    ):
        stub = stubs.GovernanceServiceStub(channel)
        with pytest.raises(AssertionError, match="CreateUser"), assert_audited(server.registry):
            await stub.CreateUser(pb.CreateUserRequest(username="b", password="p"))
        with pytest.raises(AssertionError, match="no mutating call"), assert_audited(server.registry):
            await call_who_am_i_refused(server.address)


async def call_who_am_i_refused(address: str) -> None:
    with pytest.raises(Unauthenticated):
        await call_who_am_i(address, None)


async def test_refusals_of_mutating_calls_are_audited_even_without_a_caller():
    issuer, sink = Issuer(), MemoryAuditSink()

    async def create(request, context):
        raise AlreadyExists("taken", code="user_exists")

    async with serving(governance(sink, CreateUser=create), verifier=issuer.verifier) as server:
        for tokens in (None, FixedToken(issuer.token("eve")), FixedToken(issuer.token("ada", "*"))):
            async with rpc.control_channel(server.address, tokens) as channel:
                with pytest.raises(PhantomError), rpc.translated():
                    await stubs.GovernanceServiceStub(channel).CreateUser(
                        pb.CreateUserRequest(username="b", password="p")
                    )
    assert [(context.principal, code) for context, code in sink.refusals] == [
        ("anonymous", "token_missing"),
        ("eve", "permission_missing"),
        ("ada", "user_exists"),
    ]


async def test_a_sink_that_fails_does_not_change_the_answer():
    class Broken:
        async def refused(self, context, error_code):
            raise Unavailable("Postgres is away")

    async with (
        serving(standing_in(GOVERNANCE, audit=Broken()), verifier=Issuer().verifier) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(Unauthenticated), rpc.translated():
            await stubs.GovernanceServiceStub(channel).CreateUser(pb.CreateUserRequest())
        name = "phantom_rpc_audits_lost_total"
        labels = {"service": GOVERNANCE, "method": "CreateUser"}
        assert server.registry.get_sample_value(name, labels) == 1


async def read_chunks(stub, into: list[bytes]) -> None:
    with rpc.translated():
        async for answer in stub.DownloadArtifact(
            registry_pb.DownloadArtifactRequest(digest=DIGEST), timeout=10
        ):
            into.append(answer.chunk)


async def test_a_stream_of_answers_arrives_and_its_error_is_mapped():
    issuer = Issuer()

    async def download(request, context):
        yield registry_pb.DownloadArtifactResponse(chunk=b"abc", size_bytes=6)
        raise NotFound("the rest is gone", code="artifact_truncated")

    async with (
        serving(registry(DownloadArtifact=download), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("m", "*"))) as channel,
    ):
        stub, chunks = registry_stubs.RegistryServiceStub(channel), []
        with pytest.raises(NotFound) as lost:
            await read_chunks(stub, chunks)
    assert chunks == [b"abc"]
    assert lost.value.code == "artifact_truncated"


async def test_each_message_of_a_stream_is_validated():
    issuer, got = Issuer(), []

    async def upload(requests: AsyncIterator, context):
        async for request in requests:
            got.append(request.chunk)
        return registry_pb.UploadArtifactResponse()

    async def parts():
        yield registry_pb.UploadArtifactRequest(chunk=b"1")
        yield registry_pb.UploadArtifactRequest()

    async with (
        serving(registry(UploadArtifact=upload), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("m", "*"))) as channel,
    ):
        with pytest.raises(Invalid) as refused, rpc.translated():
            await registry_stubs.RegistryServiceStub(channel).UploadArtifact(parts(), timeout=10)
    assert refused.value.code == "invalid_request"
    assert got == [b"1"]


async def test_a_stream_needs_its_permission_before_its_first_message():
    issuer = Issuer()
    async with (
        serving(registry(), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("m"))) as channel,
    ):
        chunks: list[bytes] = []
        with pytest.raises(Forbidden):
            await read_chunks(registry_stubs.RegistryServiceStub(channel), chunks)
    assert chunks == []


async def test_a_reader_who_leaves_a_stream_ends_its_handler():
    issuer, ended = Issuer(), asyncio.Event()

    async def download(request, context):
        try:
            while True:
                yield registry_pb.DownloadArtifactResponse(chunk=b"x" * 1000)
        finally:
            ended.set()

    async with (
        serving(registry(DownloadArtifact=download), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("m", "*"))) as channel,
    ):
        stub = registry_stubs.RegistryServiceStub(channel)
        call = stub.DownloadArtifact(registry_pb.DownloadArtifactRequest(digest=DIGEST))
        async for _ in call:
            break
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)


async def test_calls_are_counted_by_method_and_code():
    issuer = Issuer()
    async with serving(governance(WhoAmI=who_am_i), verifier=issuer.verifier) as server:
        await call_who_am_i(server.address, issuer.token("ada", "*"))
        with pytest.raises(Unauthenticated):
            await call_who_am_i(server.address, None)
        labels = {"service": GOVERNANCE, "method": "WhoAmI"}
        value = server.registry.get_sample_value
        assert value("phantom_rpc_started_total", labels) == 2
        for code in ("OK", "UNAUTHENTICATED"):
            assert value("phantom_rpc_handled_total", {**labels, "code": code}) == 1
            assert value("phantom_rpc_handling_seconds_count", {**labels, "code": code}) == 1


async def test_a_conversation_of_two_streams_is_guarded_too():
    async def frames(requests, context):
        async for request in requests:
            if request.open.revision == "stop":
                raise Refused("no more", code="draining")
            yield model_pb.FramesResponse()

    async def talk():
        for revision in ("go", "go", "stop"):
            request = model_pb.FramesRequest()
            request.open.revision = revision
            yield request

    answers = []
    servicer = standing_in("phantom.modelserver.v1.ModelServerService", Frames=frames)
    async with (
        serving(servicer, verifier=None) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(Refused) as refused:
            await collect(model_stubs.ModelServerServiceStub(channel).Frames(talk(), timeout=10), answers)
    assert (refused.value.code, len(answers)) == ("draining", 2)


async def collect(answers, into: list) -> None:
    with rpc.translated():
        async for answer in answers:
            into.append(answer)


async def test_a_sink_that_hangs_delays_the_answer_by_a_bounded_time(monkeypatch):
    class Hanging:
        async def refused(self, context, error_code):
            await asyncio.Event().wait()

    monkeypatch.setattr("phantom_platform.rpc.guard.AUDIT_TIMEOUT_S", 0.05)
    async with (
        serving(standing_in(GOVERNANCE, audit=Hanging()), verifier=Issuer().verifier) as server,
        rpc.control_channel(server.address, None) as channel,
    ):
        with pytest.raises(Unauthenticated), rpc.translated():
            await stubs.GovernanceServiceStub(channel).CreateUser(pb.CreateUserRequest(), timeout=5)


async def test_a_temporary_failure_is_no_refusal():
    issuer, sink = Issuer(), MemoryAuditSink()

    async def create(request, context):
        raise Unavailable("Postgres is away")

    async with (
        serving(governance(sink, CreateUser=create), verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, FixedToken(issuer.token("ada", "*"))) as channel,
    ):
        with pytest.raises(Unavailable), rpc.translated():
            await stubs.GovernanceServiceStub(channel).CreateUser(
                pb.CreateUserRequest(username="b", password="p")
            )
    assert sink.refusals == []
