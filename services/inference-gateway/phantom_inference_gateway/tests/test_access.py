"""Who needs a token, and what it must allow."""

import pytest

from phantom_inference_gateway.access import Access
from phantom_inference_gateway.settings import GatewaySettings
from phantom_inference_gateway.tests.fakes import call
from phantom_platform.errors import Forbidden, Unauthenticated
from phantom_platform.identity.tokens import Identity


class Verifier:
    def __init__(self, *permissions, workspaces=("default",)):
        self.identity = Identity("ann", workspaces, frozenset(permissions), 0)

    async def verify(self, token):
        if token != "good":
            raise Unauthenticated("no", code="token_malformed")
        return self.identity


def asking(**changes):
    made = call()
    for name, value in ({"token": "good"} | changes).items():
        setattr(made, name, value)
    return made


async def test_a_plain_call_on_loopback_needs_nothing():
    access = Access(Verifier(), is_required=False)
    assert not access.concerns(asking(token=""))
    assert access.concerns(asking(workspace="other"))
    assert access.concerns(asking(override_revision="f.1"))
    assert Access(Verifier(), is_required=True).concerns(asking())


async def test_the_missing_permission_is_named():
    await Access(Verifier("predictions:infer"), is_required=True).admit(asking())
    with pytest.raises(Forbidden, match="predictions:infer"):
        await Access(Verifier(), is_required=True).admit(asking())
    with pytest.raises(Forbidden, match="predictions:override"):
        await Access(Verifier("predictions:infer"), is_required=False).admit(asking(override_revision="f.1"))
    await Access(Verifier("predictions:*"), is_required=False).admit(asking(override_revision="f.1"))


async def test_bad_tokens_and_other_workspaces_are_refused():
    access = Access(Verifier("*"), is_required=True)
    for token in ("", "forged"):
        with pytest.raises(Unauthenticated):
            await access.admit(asking(token=token))
    with pytest.raises(Forbidden) as refused:
        await access.admit(asking(workspace="other"))
    assert refused.value.code == "workspace_forbidden"


@pytest.mark.parametrize(
    ("host", "auth", "required"),
    [
        ("127.0.0.1", "open", False),
        ("::1", "open", False),
        ("localhost", "open", False),
        ("127.0.0.1", "required", True),
        ("0.0.0.0", "open", True),
        ("gateway.example", "open", True),
    ],
)
def test_beyond_loopback_a_token_is_always_required(host, auth, required):
    assert GatewaySettings(host=host, auth=auth).is_auth_required is required


def test_settings_that_make_no_sense_are_refused():
    for changes in ({"auth": "maybe"}, {"worker": "../x"}, {"grpc_port": 70_000}, {"max_in_flight": 0}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            GatewaySettings(**changes)
