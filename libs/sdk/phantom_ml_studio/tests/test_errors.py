"""What a failed call becomes."""

from __future__ import annotations

import socket

import grpc
import pytest

from phantom.registry.v1 import registry_service_pb2 as rpc
from phantom_ml_studio import Client, ModelRegistry, errors
from phantom_ml_studio.tests.fake_platform import FakePlatform, Refusal

CLASSES = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.Invalid,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.ABORTED: errors.Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Refused,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Exhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.TimedOut,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.INTERNAL: errors.PhantomError,
    grpc.StatusCode.UNKNOWN: errors.PhantomError,
}


@pytest.mark.parametrize("status", CLASSES, ids=lambda status: status.name)
def test_a_status_becomes_its_class_with_code_and_fields(
    status: grpc.StatusCode, platform: FakePlatform
) -> None:
    platform.answer("GetModel", Refusal(status, "no, because", "the_code", {"model_id": "m"}))
    with Client(platform.address, "t", retry_s=0) as client, pytest.raises(errors.PhantomError) as caught:
        ModelRegistry(client).get_model("m")
    error = caught.value
    assert type(error) is CLASSES[status]
    assert (error.message, error.code, error.fields) == ("no, because", "the_code", {"model_id": "m"})
    assert str(error) == "no, because"


def test_violations_say_which_field_is_wrong_and_how(platform: FakePlatform) -> None:
    platform.answer(
        "GetModel",
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, code="invalid", violations={"model_id": "too long"}),
    )
    with Client(platform.address, "t") as client, pytest.raises(errors.Invalid) as caught:
        ModelRegistry(client).get_model("m")
    assert caught.value.violations == (("model_id", "too long"),)


def test_a_status_without_details_keeps_its_name_as_code(platform: FakePlatform) -> None:
    platform.answer("GetModel", Refusal(grpc.StatusCode.NOT_FOUND, "gone"))
    with Client(platform.address, "t") as client, pytest.raises(errors.NotFound) as caught:
        ModelRegistry(client).get_model("m")
    assert (caught.value.code, caught.value.message) == ("not_found", "gone")


def test_an_unknown_method_is_unsupported(platform: FakePlatform) -> None:
    with Client(platform.address, "t") as client, pytest.raises(errors.Unsupported):
        ModelRegistry(client).get_model("m")


def test_where_nobody_answers_the_address_and_the_next_command_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Client(address, "t", retry_s=0) as client, pytest.raises(errors.Unavailable) as caught:
            ModelRegistry(client).get_model("m")
    assert address in caught.value.message
    assert "phantom-ml-studio status" in caught.value.message


def test_a_call_is_repeated_while_nobody_answers_and_keeps_its_request_id(platform: FakePlatform) -> None:
    ids: list[str] = []

    def set_tags(body: bytes) -> rpc.SetTagsResponse:
        ids.append(rpc.SetTagsRequest.FromString(body).request_id)
        if len(ids) < 3:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "starting", "starting")
        return rpc.SetTagsResponse()

    platform.methods["SetTags"] = set_tags
    told: list[errors.PhantomError] = []
    with Client(platform.address, "t", on_retry=told.append) as client:
        ModelRegistry(client).set_tags("m", ["a"])
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert ids[0]
    assert [error.code for error in told] == ["starting", "starting"]


def test_every_call_carries_the_token_and_a_trace_that_the_error_names(platform: FakePlatform) -> None:
    platform.answer("GetModel", Refusal(grpc.StatusCode.NOT_FOUND))
    with Client(platform.address, "secret") as client, pytest.raises(errors.NotFound) as caught:
        ModelRegistry(client).get_model("m")
    ((_, metadata),) = platform.seen
    assert metadata["authorization"] == "Bearer secret"
    version, trace_id, parent, flags = metadata["traceparent"].split("-")
    assert (version, trace_id, flags, len(parent)) == ("00", caught.value.trace_id, "01", 16)
