"""Governance through its door: real server, real Postgres, the key through a real Kafka."""

import asyncio
import json

import asyncpg
import grpc
import pytest
from aiokafka import AIOKafkaConsumer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom_contracts import topics
from phantom_platform import rpc
from phantom_platform.errors import (
    AlreadyExists,
    Exhausted,
    Forbidden,
    Invalid,
    Refused,
    Unauthenticated,
)
from phantom_platform.telemetry import tracing
from phantom_platform.testing.audit import assert_audited
from phantom_platform.testing.waiting import until

PASSWORD = "correct horse"
DIGEST = "sha256:" + "ab" * 32


async def call(running, token, method: str, request):
    """One call with a token; errors come back as ours."""
    with rpc.translated():
        async with running.channel(token) as channel:
            return await getattr(stubs.GovernanceServiceStub(channel), method)(request, timeout=20)


async def create(running, token, username: str, *permissions: str, request_id: str = "") -> pb.User:
    request = pb.CreateUserRequest(
        username=username, password=PASSWORD, permissions=permissions, request_id=request_id
    )
    return (await call(running, token, "CreateUser", request)).user


async def test_the_first_password_logs_the_administrator_in(running):
    password = (running.context.secrets_dir / "admin-password").read_text().strip()
    token = await running.login("admin", password)
    assert (token.principal, list(token.permissions), list(token.workspaces)) == ("admin", ["*"], ["default"])
    me = await call(running, token.value, "WhoAmI", pb.WhoAmIRequest())
    assert (me.principal, list(me.permissions)) == ("admin", ["*"])
    claims = (await running.context.verifier.verify(token.value)).claims
    assert claims["exp"] - claims["iat"] == 3600
    assert token.expires_at.seconds == claims["exp"]


async def test_a_created_user_can_log_in_and_do_what_was_granted(running):
    admin = await running.admin()
    with assert_audited(running.context.registry):
        user = await create(running, admin, "grace@example.org", "users:read")
    assert (user.username, user.created_by) == ("grace@example.org", "admin")
    token = (await running.login("grace@example.org", PASSWORD)).value
    users = (await call(running, token, "ListUsers", pb.ListUsersRequest())).users
    assert {"admin", "grace@example.org"} <= {each.username for each in users}
    with pytest.raises(Forbidden) as refused:
        await create(running, token, "mallory")
    assert refused.value.fields["permission"] == "users:create"


async def test_nobody_grants_what_they_do_not_have(running):
    admin = await running.admin()
    await create(running, admin, "hr", "users:create", "models:read")
    token = (await running.login("hr", PASSWORD)).value
    await create(running, token, "reader", "models:read")
    for asked in (["models:*"], ["*"], ["users:read"], []):
        with pytest.raises(Forbidden) as refused:
            await create(running, token, "too-much", *asked)
        assert refused.value.fields["permission"]


async def test_a_username_is_taken_once_and_a_repeated_call_is_harmless(running):
    admin = await running.admin()
    first = await create(running, admin, "ada", request_id="req-1")
    assert await create(running, admin, "ada", request_id="req-1") == first
    with pytest.raises(AlreadyExists) as taken:
        await create(running, admin, "ada", request_id="req-2")
    assert taken.value.code == "user_exists"
    with pytest.raises(AlreadyExists):
        await create(running, admin, "deployer")
    with pytest.raises(Refused) as reused:
        await create(running, admin, "another", request_id="req-1")
    assert reused.value.code == "request_id_reused"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.CreateUserRequest(username="x", password="short"), "weak_password"),
        (pb.CreateUserRequest(username="x y", password=PASSWORD), "invalid_principal"),
        (
            pb.CreateUserRequest(username="x", password=PASSWORD, permissions=["everything"]),
            "invalid_permission",
        ),
        (pb.CreateUserRequest(username="", password=PASSWORD), "invalid_request"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_a_user_who_cannot_be_is_refused(running, request_, code):
    with pytest.raises(Invalid) as refused:
        await call(running, await running.admin(), "CreateUser", request_)
    assert refused.value.code == code


async def test_wrong_names_and_wrong_passwords_look_the_same(running):
    with pytest.raises(Unauthenticated) as unknown:
        await running.login("nobody-at-all", "whatever1")
    with pytest.raises(Unauthenticated) as wrong:
        await running.login("admin", "whatever1")
    assert (unknown.value.code, unknown.value.message) == (wrong.value.code, wrong.value.message)
    assert unknown.value.code == "invalid_credentials"


async def test_a_service_has_no_password(running):
    key = (running.context.secrets_dir / "deployer.key").read_text().strip()
    with pytest.raises(Unauthenticated):
        await running.login("deployer", key)


async def test_guessing_is_stopped_even_at_once_and_even_for_the_right_password(running):
    await create(running, await running.admin(), "target")
    guesses = await asyncio.gather(
        *(running.login("target", f"guess-{number}") for number in range(12)), return_exceptions=True
    )
    kinds = [type(each) for each in guesses]
    assert kinds.count(Unauthenticated) == 5
    assert kinds.count(Exhausted) == 7
    with pytest.raises(Exhausted) as blocked:
        await running.login("target", PASSWORD)
    assert blocked.value.code == "too_many_attempts"
    assert 0 < float(blocked.value.fields["retry_after_s"]) <= 60


async def test_a_changed_password_replaces_the_old_one(running):
    await create(running, await running.admin(), "changer")
    token = (await running.login("changer", PASSWORD)).value
    new = "another horse"

    async def change(current: str, new: str) -> None:
        request = pb.ChangePasswordRequest(current_password=current, new_password=new)
        await call(running, token, "ChangePassword", request)

    with pytest.raises(Unauthenticated):
        await change("wrong", new)
    with pytest.raises(Invalid) as weak:
        await change(PASSWORD, "changer")
    assert weak.value.violations[0].field == "new_password"
    with assert_audited(running.context.registry):
        await change(PASSWORD, new)
    with pytest.raises(Unauthenticated):
        await running.login("changer", PASSWORD)
    assert (await running.login("changer", new)).principal == "changer"


async def test_users_are_listed_in_pages(running):
    admin = await running.admin()
    for number in range(3):
        await create(running, admin, f"page-{number}")
    names, token = [], ""
    for _ in range(50):
        page = await call(running, admin, "ListUsers", pb.ListUsersRequest(page_size=2, page_token=token))
        assert len(page.users) <= 2
        names += [each.username for each in page.users]
        if not (token := page.next_page_token):
            break
    assert names == sorted(set(names))
    assert {"admin", "page-0", "page-1", "page-2"} <= set(names)
    assert "deployer" not in names
    for bad in ("%%%", "_w=="):
        with pytest.raises(Invalid) as refused:
            await call(running, admin, "ListUsers", pb.ListUsersRequest(page_token=bad))
        assert refused.value.code == "invalid_page_token"


async def test_a_service_gets_a_token_with_its_key_and_nothing_with_another(running):
    secrets_dir = running.context.secrets_dir
    key = (secrets_dir / "deployer.key").read_text().strip()
    request = pb.IssueServiceTokenRequest(service="deployer", key=key)
    token = (await call(running, None, "IssueServiceToken", request)).token
    assert token.principal == "deployer"
    assert "tokens:issue-artifact" in token.permissions
    for service, secret in (("registry", key), ("deployer", "x"), ("nobody", key), ("admin", key)):
        request = pb.IssueServiceTokenRequest(service=service, key=secret)
        with pytest.raises(Unauthenticated) as refused:
            await call(running, None, "IssueServiceToken", request)
        assert refused.value.code == "invalid_credentials"


async def test_an_artifact_token_reads_its_artifacts_and_only_the_deployer_issues_it(running):
    key_file = running.context.secrets_dir / "deployer.key"
    source = rpc.TokenSource(running.address, "deployer", key_file, running.context.clock)
    digests = [f"sha256:{number:064x}" for number in range(64)]
    request = pb.IssueArtifactTokenRequest(digests=digests, subject="r-" + "x" * 120)
    token = (await call(running, await source.token(), "IssueArtifactToken", request)).token
    identity = await running.context.verifier.verify(token.value)
    assert identity.permissions == {"artifacts:read"}
    assert identity.claims["artifacts"] == digests
    # Small enough to be sent at all, and good for nothing else.
    with pytest.raises(Forbidden):
        await call(running, token.value, "ListUsers", pb.ListUsersRequest())
    await create(running, await running.admin(), "engineer")
    engineer = (await running.login("engineer", PASSWORD)).value
    with pytest.raises(Forbidden) as refused:
        await call(running, engineer, "IssueArtifactToken", request)
    assert refused.value.fields["permission"] == "tokens:issue-artifact"


async def test_no_secret_is_stored_or_announced_in_clear(running):
    admin, password = await running.admin(), "a very secret horse"
    request = pb.CreateUserRequest(username="clear", password=password)
    await call(running, admin, "CreateUser", request)
    connection = await asyncpg.connect(running.context.postgres_dsn)
    try:
        stored = await connection.fetchval(
            "SELECT secret_hash FROM governance.credentials WHERE principal = 'clear'"
        )
        everything = await connection.fetch("SELECT t::text FROM governance.credentials t")
    finally:
        await connection.close()
    assert stored.startswith("$argon2id$")
    key = (running.context.secrets_dir / "deployer.key").read_text().strip()
    assert not any(password in row[0] or key in row[0] for row in everything)


async def test_changes_and_refusals_reach_the_topics(running):
    admin = await running.admin()
    await create(running, admin, "audited", "models:read", request_id="audited-1")
    with pytest.raises(Unauthenticated):
        await create(running, None, "refused")
    records = await read(running.context.kafka_bootstrap, topics.AUDIT.name, topics.ACCESS.name)
    access = [
        value for topic, value in records if topic == topics.ACCESS.name and value["principal"] == "audited"
    ]
    assert "models:read" in access[-1]["permissions"]
    assert access[-1]["version"] == 1
    calls = [value for topic, value in records if topic == topics.AUDIT.name]
    done = [each for each in calls if each["request_id"] == "audited-1"]
    assert [(each["principal"], each["resource"], each["outcome"]) for each in done] == [
        ("admin", "users/audited", "ok")
    ]
    assert any(each["error_code"] == "token_missing" and each["principal"] == "anonymous" for each in calls)


async def test_one_trace_leads_from_the_caller_to_the_event(running):
    tracing.configure("test")
    admin = await running.admin()
    with tracing.span("user action") as span:
        await create(running, admin, "traced", request_id="traced-1")
    trace_id = format(span.get_span_context().trace_id, "032x")
    consumer = AIOKafkaConsumer(
        topics.ACCESS.name,
        topics.AUDIT.name,
        bootstrap_servers=running.context.kafka_bootstrap,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    found = []

    async def both_are_there() -> bool:
        polled = await consumer.getmany(timeout_ms=200)
        for record in (each for batch in polled.values() for each in batch):
            if dict(record.headers).get("traceparent", b"").split(b"-")[1:2] == [trace_id.encode()]:
                found.append(json.loads(record.value))
        return len(found) >= 2

    try:
        await until(both_are_there)
    finally:
        await consumer.stop()
    assert {each["principal"] for each in found} == {"traced", "admin"}
    assert trace_id in {each.get("trace_id") for each in found}


async def read(bootstrap: str, *names: str) -> list[tuple[str, dict]]:
    """Everything in the topics, once the audit record of the refusal is there."""
    consumer = AIOKafkaConsumer(*names, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    found: list[tuple[str, dict]] = []

    async def is_there() -> bool:
        polled = await consumer.getmany(timeout_ms=200)
        found.extend((each.topic, json.loads(each.value)) for batch in polled.values() for each in batch)
        codes = [value.get("error_code") for _, value in found]
        return "token_missing" in codes and any(v.get("request_id") == "audited-1" for _, v in found)

    try:
        await until(is_there)
    finally:
        await consumer.stop()
    return found


async def test_health_says_ready(running):
    async with grpc.aio.insecure_channel(running.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
