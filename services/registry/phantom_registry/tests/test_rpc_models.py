"""Models and versions through the real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from phantom.registry.v1 import model_pb2 as model_pb
from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from phantom_platform.errors import AlreadyExists, Invalid
from phantom_platform.testing.audit import assert_audited
from phantom_registry.tests.conftest import (
    MODEL_BYTES,
    SCHEMA_JSON,
    Running,
    digest_of,
    refused,
    register,
    spec,
    upload,
)

OTHER_BYTES = MODEL_BYTES.replace(b"[3, 2, 0]", b"[3, 2, 1]")


def tagged(model_id: str, *tags: str, text: str = "") -> pb.RegisterModelRequest:
    return pb.RegisterModelRequest(model_id=model_id, description=text, tags=tags)


async def create(
    stub: RegistryServiceStub, model_id: str, version: pb.VersionSpec, request_id: str = ""
) -> Any:
    request = pb.CreateVersionRequest(model_id=model_id, version=version, request_id=request_id)
    return (await stub.CreateVersion(request)).version


async def test_the_guides_registration_makes_model_and_version(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await upload(ada)
    version = spec("2.1.0", description="d", stage=model_pb.STAGE_STAGING, schema_json=SCHEMA_JSON)
    version.metadata.update(
        {"algorithm": "xgboost", "framework": "scikit-learn", "training_config": {"features": 45}}
    )
    version.claimed_metrics.update({"accuracy": 0.947, "f1_score": 0.907})
    with assert_audited(registry.serving.registry):
        done = await ada.RegisterModel(
            pb.RegisterModelRequest(
                model_id="fraud-detection-v2",
                tags=["fraud", "xgboost"],
                description="Enhanced",
                version=version,
            )
        )
    assert done.model.model_id == "fraud-detection-v2"
    assert list(done.model.tags) == ["fraud", "xgboost"]
    assert done.model.latest_version == "2.1.0"
    assert dict(done.model.stage_versions) == {"staging": "2.1.0"}
    found = done.version
    assert (found.digest, found.size_bytes, found.framework) == (
        digest_of(MODEL_BYTES),
        len(MODEL_BYTES),
        "xgboost",
    )
    assert (found.stage, found.created_by, found.schema_json) == (model_pb.STAGE_STAGING, "ada", SCHEMA_JSON)
    assert MessageToDict(found.claimed_metrics) == {"accuracy": 0.947, "f1_score": 0.907}
    metadata = MessageToDict(found.metadata)
    assert metadata["training_config"] == {"features": 45}
    assert metadata["phantom_warnings"][0]["code"] == "framework_mismatch"
    events = await registry.events()
    assert [(each["kind"], each["number"]) for each in events] == [
        ("ModelRegistered", 1),
        ("VersionCreated", 2),
    ]
    assert events[1]["key"] == "default/fraud-detection-v2"
    assert events[1]["model_schema"] == SCHEMA_JSON


async def test_the_guides_second_version_keeps_its_changes_and_comparison(ada: RegistryServiceStub) -> None:
    await register(ada, "fraud", "2.1.0")
    version = spec("2.1.1", changes=["Improved features", "Edge cases"])
    version.performance_comparison.update(
        {"baseline_version": "2.1.0", "improvements": {"accuracy": "+0.003", "latency": "-15ms"}}
    )
    done = await create(ada, "fraud", version)
    assert list(done.changes) == ["Improved features", "Edge cases"]
    assert MessageToDict(done.performance_comparison)["improvements"] == {
        "accuracy": "+0.003",
        "latency": "-15ms",
    }
    assert done.stage == model_pb.STAGE_DEVELOPMENT
    listed = await ada.ListVersions(pb.ListVersionsRequest(model_id="fraud"))
    assert [each.version for each in listed.versions] == ["2.1.1", "2.1.0"]


async def test_the_same_version_and_bytes_again_are_the_same_answer(
    registry: Running, ada: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    first = await register(ada)
    again = await register(ada)
    assert again == first
    assert await create(bob, "fraud", spec()) == first.version
    assert len(await registry.events("VersionCreated")) == 1


async def test_other_bytes_under_the_same_version_are_refused_with_both_digests(
    ada: RegistryServiceStub,
) -> None:
    await register(ada)
    await upload(ada, OTHER_BYTES)
    error = await refused("version_exists", create(ada, "fraud", spec(content=OTHER_BYTES)))
    assert isinstance(error, AlreadyExists)
    assert error.fields["existing_digest"] == digest_of(MODEL_BYTES)
    assert error.fields["given_digest"] == digest_of(OTHER_BYTES)


async def test_another_schema_for_the_same_bytes_is_refused_and_another_spelling_is_not(
    ada: RegistryServiceStub,
) -> None:
    await register(ada, schema_json=SCHEMA_JSON)
    spelled = json.dumps(json.loads(SCHEMA_JSON) | {"task": "classification"}, indent=2)
    assert (await create(ada, "fraud", spec(schema_json=spelled))).schema_json == SCHEMA_JSON
    error = await refused("version_exists", create(ada, "fraud", spec()))
    assert error.fields["differs"] == "schema_json"


async def test_two_creations_at_once_make_one_version(registry: Running, ada: RegistryServiceStub) -> None:
    await register(ada)
    await upload(ada, OTHER_BYTES)
    done = await asyncio.gather(
        *(create(ada, "fraud", spec("2", content)) for content in (MODEL_BYTES, OTHER_BYTES) * 3),
        return_exceptions=True,
    )
    made = {each.digest for each in done if not isinstance(each, BaseException)}
    assert len(made) == 1
    assert sum(isinstance(each, BaseException) for each in done) == 3
    assert [each["model_version"] for each in await registry.events("VersionCreated")] == ["1.0.0", "2"]


async def test_two_registrations_at_once_make_one_model(registry: Running, ada: RegistryServiceStub) -> None:
    await upload(ada)
    done = await asyncio.gather(*(register(ada) for _ in range(5)))
    assert all(each == done[0] for each in done)
    assert len(await registry.events()) == 2


@pytest.mark.parametrize(
    ("version", "code", "field"),
    [
        ({"schema_json": "{"}, "invalid_schema", "version.schema_json"),
        ({"schema_json": '{"features": []}'}, "invalid_schema", "version.schema_json.features"),
        (
            {"schema_json": '{"features": [{"name": "a"}, {"name": "b", "type": "decimal"}]}'},
            "invalid_schema",
            "version.schema_json.features[1].type",
        ),
        ({"schema_json": '{"features": [{"name": "a"}]}'}, "invalid_schema", "version.schema_json"),
        ({"version": "-1"}, "invalid_request", "version.version"),
        ({"digest": "sha256:1"}, "invalid_request", "version.digest"),
        ({"file_name": "../model.json"}, "invalid_file_name", "version.file_name"),
        ({"stage": 9}, "invalid_request", "version.stage"),
        ({"stage": model_pb.STAGE_ARCHIVED}, "born_archived", "version.stage"),
        ({"description": "nul \0"}, "invalid_text", "version.description"),
    ],
)
async def test_a_version_that_cannot_be_is_refused_by_field(
    registry: Running, ada: RegistryServiceStub, version: dict[str, Any], code: str, field: str
) -> None:
    await upload(ada)
    fields = {"version": "1", "digest": digest_of(MODEL_BYTES), "file_name": "m.json", **version}
    request = pb.RegisterModelRequest(model_id="fraud", version=pb.VersionSpec(**fields))
    error = await refused(code, ada.RegisterModel(request))
    assert isinstance(error, Invalid)
    assert error.violations[0].field == field
    assert await registry.events() == []


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        (float("nan"), "not_finite", "version.metadata.a[0].b"),
        ("\0", "invalid_text", 'version.metadata.fields["a"].list_value.values[0].struct_value.fields["b"]'),
    ],
)
async def test_metadata_that_cannot_be_kept_is_refused_by_its_place(
    ada: RegistryServiceStub, value: object, code: str, field: str
) -> None:
    version = spec()
    version.metadata.update({"a": [{"b": value}]})
    request = pb.RegisterModelRequest(model_id="fraud", version=version)
    error = await refused(code, ada.RegisterModel(request))
    assert isinstance(error, Invalid)
    assert error.violations[0].field.startswith(field)


async def test_endlessly_nested_metadata_is_refused(ada: RegistryServiceStub) -> None:
    nested: Any = 1
    for _ in range(33):
        nested = {"a": nested}
    version = spec()
    version.metadata.update(nested)
    await refused("too_deep", ada.RegisterModel(pb.RegisterModelRequest(model_id="fraud", version=version)))


async def test_bytes_of_no_known_format_are_refused_whatever_their_name(ada: RegistryServiceStub) -> None:
    await upload(ada, b"not a model")
    request = pb.RegisterModelRequest(model_id="fraud", version=spec(content=b"not a model"))
    error = await refused("unknown_format", ada.RegisterModel(request))
    assert isinstance(error, Invalid)
    await refused("model_not_found", ada.GetModel(pb.GetModelRequest(model_id="fraud")))


async def test_bytes_that_were_not_uploaded_are_refused(ada: RegistryServiceStub) -> None:
    await refused(
        "artifact_not_found", ada.RegisterModel(pb.RegisterModelRequest(model_id="m", version=spec()))
    )
    await refused("model_not_found", create(ada, "m", spec()))


async def test_production_from_birth_needs_the_permission_to_promote(registry: Running) -> None:
    writer = await registry.client("eve", "models:write", "artifacts:write")
    await upload(writer)
    request = pb.RegisterModelRequest(model_id="m", version=spec(stage=model_pb.STAGE_PRODUCTION))
    await refused("permission_missing", writer.RegisterModel(request))


async def test_another_description_or_other_tags_are_another_model(ada: RegistryServiceStub) -> None:
    await ada.RegisterModel(tagged("fraud", "a", "b", text="one"))
    await ada.RegisterModel(tagged("fraud", "b", "a", text="one"))
    for other in (tagged("fraud", "a", text="one"), tagged("fraud", "a", "b", text="two")):
        await refused("model_exists", ada.RegisterModel(other))


@pytest.mark.parametrize("model_id", ["Fraud", "fraud_2", "-a", "a" * 63 + "-"])
async def test_a_model_id_that_cannot_be_a_label_is_refused(ada: RegistryServiceStub, model_id: str) -> None:
    with pytest.raises(Exception, match="model_id"):
        await ada.RegisterModel(pb.RegisterModelRequest(model_id=model_id))


# -- request ids -------------------------------------------------------------------


async def test_a_repeated_request_id_gets_the_first_answer_whatever_happened_since(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await upload(ada)
    request = pb.RegisterModelRequest(model_id="fraud", version=spec(), tags=["a"], request_id="r1")
    first = await ada.RegisterModel(request)
    await ada.SetTags(pb.SetTagsRequest(model_id="fraud", tags=["b"], request_id="r2"))
    registry.artifacts.path(digest_of(MODEL_BYTES)).unlink()
    assert await ada.RegisterModel(request) == first
    assert list((await ada.GetModel(pb.GetModelRequest(model_id="fraud"))).model.tags) == ["b"]


async def test_a_request_id_with_other_arguments_or_for_another_call_is_refused(
    ada: RegistryServiceStub, bob: RegistryServiceStub
) -> None:
    await register(ada)
    first = await create(ada, "fraud", spec("2"), "r1")
    assert await create(ada, "fraud", spec("2"), "r1") == first
    await refused("request_id_reused", create(ada, "fraud", spec("3"), "r1"))
    tags = pb.SetTagsRequest(model_id="fraud", tags=["x"], request_id="r1")
    await refused("request_id_reused", ada.SetTags(tags))
    # Somebody else's ids are their own.
    assert list((await bob.SetTags(tags)).model.tags) == ["x"]


async def test_the_same_request_many_times_at_once_is_done_once(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await register(ada)
    done = await asyncio.gather(*(create(ada, "fraud", spec("2"), "r1") for _ in range(6)))
    assert all(each == done[0] for each in done)
    assert len(await registry.events("VersionCreated")) == 2


async def test_a_refused_request_id_may_be_used_again(ada: RegistryServiceStub) -> None:
    await refused("model_not_found", create(ada, "fraud", spec(), "r1"))
    await register(ada)
    assert (await create(ada, "fraud", spec(), "r1")).version == "1.0.0"


# -- reads -------------------------------------------------------------------------


async def test_models_are_found_by_text_all_tags_and_stage(ada: RegistryServiceStub) -> None:
    await register(ada, "churn", stage=model_pb.STAGE_STAGING)
    await ada.RegisterModel(tagged("fraud-a", "fraud", "prod", text="Cards 100%"))
    await ada.RegisterModel(tagged("fraud-b", "fraud", text="Transfers"))

    async def found(**filters: Any) -> list[str]:
        answer = await ada.ListModels(pb.ListModelsRequest(**filters))
        return [each.model_id for each in answer.models]

    assert await found() == ["fraud-b", "fraud-a", "churn"]
    assert await found(text="FRAUD") == ["fraud-b", "fraud-a"]
    assert await found(text="100%") == ["fraud-a"]
    assert await found(text="_") == []
    assert await found(tags=["fraud"]) == ["fraud-b", "fraud-a"]
    assert await found(tags=["prod", "fraud"]) == ["fraud-a"]
    assert await found(stage=model_pb.STAGE_STAGING) == ["churn"]
    assert await found(stage=model_pb.STAGE_PRODUCTION) == []


async def test_pages_are_stable_while_models_are_added(ada: RegistryServiceStub) -> None:
    for number in range(5):
        await ada.RegisterModel(tagged(f"m{number}"))
    first = await ada.ListModels(pb.ListModelsRequest(page_size=2))
    await ada.RegisterModel(tagged("newer"))
    second = await ada.ListModels(pb.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    third = await ada.ListModels(pb.ListModelsRequest(page_size=2, page_token=second.next_page_token))
    seen = [each.model_id for page in (first, second, third) for each in page.models]
    assert seen == ["m4", "m3", "m2", "m1", "m0"]
    assert third.next_page_token == ""
    other = pb.ListModelsRequest(page_token=first.next_page_token, text="m")
    await refused("invalid_page_token", ada.ListModels(other))


async def test_without_a_name_the_version_in_production_comes_else_the_newest(
    ada: RegistryServiceStub,
) -> None:
    async def newest() -> str:
        return (await ada.GetVersion(pb.GetVersionRequest(model_id="fraud"))).version.version

    await ada.RegisterModel(tagged("fraud"))
    await refused("version_not_found", newest())
    await register(ada, version="1")
    await create(ada, "fraud", spec("2"))
    assert await newest() == "2"
    await ada.PromoteModel(
        pb.PromoteModelRequest(model_id="fraud", version="1", to_stage=model_pb.STAGE_PRODUCTION)
    )
    assert await newest() == "1"
    await refused("version_not_found", ada.GetVersion(pb.GetVersionRequest(model_id="fraud", version="9")))
    await refused("model_not_found", ada.GetVersion(pb.GetVersionRequest(model_id="nothing")))


async def test_setting_the_same_tags_again_announces_nothing(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await ada.RegisterModel(tagged("fraud", "a"))
    for _ in range(2):
        await ada.SetTags(pb.SetTagsRequest(model_id="fraud", tags=["b", "c"]))
    assert [each["tags"] for each in await registry.events("ModelTagged")] == [["b", "c"]]
    await refused("invalid_tag", ada.SetTags(pb.SetTagsRequest(model_id="fraud", tags=[" "])))
    await refused("model_not_found", ada.SetTags(pb.SetTagsRequest(model_id="nothing")))


async def test_workspaces_see_nothing_of_each_other(registry: Running, ada: RegistryServiceStub) -> None:
    await register(ada)
    elsewhere: Any = {"metadata": [("phantom-workspace", "other")]}
    await refused("model_not_found", ada.GetModel(pb.GetModelRequest(model_id="fraud"), **elsewhere))
    assert not (await ada.ListModels(pb.ListModelsRequest(), **elsewhere)).models
    request = pb.RegisterModelRequest(model_id="fraud", description="another")
    done = await ada.RegisterModel(request, **elsewhere)
    assert done.model.latest_version == ""
    assert (await registry.events("ModelRegistered"))[-1]["key"] == "other/fraud"


async def test_who_may_only_read_changes_nothing(registry: Running, ada: RegistryServiceStub) -> None:
    await register(ada)
    reader = await registry.client("eve", "models:read")
    assert (await reader.GetModel(pb.GetModelRequest(model_id="fraud"))).model.model_id == "fraud"
    for call in (
        reader.RegisterModel(pb.RegisterModelRequest(model_id="m")),
        reader.SetTags(pb.SetTagsRequest(model_id="fraud")),
        create(reader, "fraud", spec()),
    ):
        error = await refused("permission_missing", call)
        assert error.fields["permission"] == "models:write"
