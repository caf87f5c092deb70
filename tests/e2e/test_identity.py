"""Who may call the control API: a missing, expired, forged or insufficient token is named as what it is."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import grpc
import pytest

from harness.oip import Door, failure, request
from harness.people import new_person
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom.registry.v1 import registry_service_pb2_grpc as registry_grpc
from phantom_ml_studio import Client, Deployments, ModelRegistry, PhantomError, Users
from phantom_ml_studio.client import obtain_token
from phantom_ml_studio.errors import Forbidden, Unauthenticated

if TYPE_CHECKING:
    from harness.people import People
    from harness.stack import Stack
    from phantom_ml_studio.values import Deployment


def refused(stack: Stack, token: str) -> PhantomError:
    """What a call with this token gets."""
    with Client(stack.control, token, retry_s=0) as client, pytest.raises(PhantomError) as caught:
        ModelRegistry(client).list_models()
    return caught.value


def decoded(part: str) -> dict[str, object]:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def encoded(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def token(stack: Stack, people: People) -> str:
    """The engineer's."""
    return obtain_token(people.engineer.name, people.engineer.password, stack.control).value


def test_a_valid_token_is_let_in(stack: Stack, token: str) -> None:
    with Client(stack.control, token) as client:
        ModelRegistry(client).list_models()


def test_a_missing_token_is_named(stack: Stack) -> None:
    with grpc.insecure_channel(stack.control) as channel:
        list_models = registry_grpc.RegistryServiceStub(channel).ListModels
        with pytest.raises(grpc.RpcError) as caught:
            list_models(registry.ListModelsRequest(), timeout=10)
    found = failure(caught.value)
    assert (found.status, found.code) == ("UNAUTHENTICATED", "token_missing")
    assert "log in" in found.message


def test_a_forged_token_is_named(stack: Stack, token: str) -> None:
    header, claims, signature = token.split(".")
    grown = encoded({**decoded(claims), "permissions": ["*"]})
    forged = refused(stack, f"{header}.{grown}.{signature}")
    assert isinstance(forged, Unauthenticated)
    assert forged.code == "token_forged"


def test_a_token_signed_by_nobody_is_refused(stack: Stack, token: str) -> None:
    _, claims, _ = token.split(".")
    unsigned = refused(stack, f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{claims}.")
    assert isinstance(unsigned, Unauthenticated)
    garbage = refused(stack, "not-a-token")
    assert isinstance(garbage, Unauthenticated)
    assert garbage.code == "token_malformed"


def test_an_expired_token_is_named(stack: Stack, people: People) -> None:
    error = refused(stack, expired_token(stack, people.engineer.name))
    assert isinstance(error, Unauthenticated)
    assert error.code == "token_expired"
    assert "expired" in error.message


def expired_token(stack: Stack, name: str) -> str:
    """As governance itself would have signed it two hours ago."""
    from datetime import UTC, datetime, timedelta

    from phantom_platform.identity.tokens import sign

    ago = datetime.now(UTC) - timedelta(hours=2)
    return sign(
        stack.signing_key(),
        name,
        workspaces=["default"],
        permissions=["models:*"],
        issued_at=ago,
        expires_at=ago + timedelta(hours=1),
    )


def test_an_insufficient_token_is_told_which_permission_it_lacks(stack: Stack, people: People) -> None:
    engineer = people.engineer.client
    with pytest.raises(Forbidden) as refusal:
        Users(engineer).create("somebody-else", "long enough a password")
    assert "users:create" in refusal.value.message
    reader = new_person(stack, people.admin, f"reader-{people.engineer.name}", ("models:read",))
    with pytest.raises(Forbidden) as writing:
        ModelRegistry(reader.client).set_tags("anything", ["x"])
    assert "models:write" in writing.value.message
    with pytest.raises(Forbidden) as deploying:
        Deployments(reader.client).deploy("anything")
    assert "models:deploy" in deploying.value.message
    reader.client.close()


def test_a_wrong_password_is_refused_and_says_nothing_about_who_exists(stack: Stack, people: People) -> None:
    messages = set()
    for name in (people.engineer.name, "nobody-at-all"):
        with pytest.raises(Unauthenticated) as refusal:
            Client.login(name, "a wrong password", stack.control)
        assert refusal.value.code == "invalid_credentials"
        messages.add(refusal.value.message.replace(name, "NAME"))
    assert len(messages) == 1


def test_another_workspace_always_needs_a_token_that_names_it(
    stack: Stack, token: str, shop: Deployment, door: Door
) -> None:
    message = request(shop.id, {"amount": [0.5], "hour": [0.5]})
    for metadata, status, code in (
        ({}, "UNAUTHENTICATED", "token_missing"),
        ({"authorization": "Bearer nonsense"}, "UNAUTHENTICATED", "token_malformed"),
        ({"authorization": f"Bearer {token}"}, "PERMISSION_DENIED", "workspace_forbidden"),
    ):
        with pytest.raises(grpc.RpcError) as refusal:
            door.infer(message, {"phantom-workspace": "elsewhere", **metadata})
        found = failure(refusal.value)
        # Without a right to look, an endpoint that is not there is not told from one that is.
        assert (found.status, found.code) == (status, code), found
