"""Datasets and lineage through the real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from phantom.registry.v1 import model_pb2 as model_pb
from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from phantom_platform.errors import AlreadyExists, Invalid, NotFound, Refused
from phantom_platform.testing.audit import assert_audited
from phantom_registry.tests.conftest import Running, digest_of, refused, register, spec

HASH = digest_of(b"rows")


async def add_dataset(
    stub: RegistryServiceStub, name: str, version: str = "1", derived: Any = None, **fields: Any
) -> model_pb.Dataset:
    plain = {"name": name, "version": version, "digest": HASH, **fields}
    request = pb.RegisterDatasetRequest(**plain)
    if derived is not None:
        request.metadata.update({"derived_from": derived})
    return (await stub.RegisterDataset(request)).dataset


def lineage(
    model_id: str = "fraud", version: str = "", *datasets: str, **fields: Any
) -> pb.CreateLineageRequest:
    sources = [model_pb.SourceData(dataset=each, version="1", hash=HASH) for each in datasets]
    return pb.CreateLineageRequest(model_id=model_id, version=version, source_data=sources, **fields)


async def nodes(stub: RegistryServiceStub, kind: str, name: str, direction: str, **fields: Any) -> list[str]:
    request = pb.QueryLineageRequest(kind=kind, name=name, direction=direction, **fields)
    found = (await stub.QueryLineage(request)).nodes
    return [f"{each.distance} {each.kind} {each.name} {each.version}" for each in found]


GUIDE = pb.CreateLineageRequest(
    model_id="fraud",
    source_data=[model_pb.SourceData(dataset="transactions_2024_q1", version="1.3", hash="sha256:abc123...")],
    feature_pipelines=[
        model_pb.FeaturePipeline(
            pipeline="fraud_features_v3", version="1.2", transformations=["scaling", "encoding"]
        )
    ],
    training_code=model_pb.TrainingCode(
        repository="ml-models/fraud-detection", commit="a1b2c3d4", branch="feature/enhanced-model"
    ),
    dependencies={"python": "3.9.16", "xgboost": "1.7.3"},
)


async def test_the_guides_lineage_belongs_to_the_newest_version(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await register(ada, version="2.1.0")
    await ada.CreateVersion(pb.CreateVersionRequest(model_id="fraud", version=spec("2.1.1")))
    with assert_audited(registry.serving.registry):
        done = (await ada.CreateLineage(GUIDE)).lineage
    assert (done.version, done.created_by) == ("2.1.1", "ada")
    source = done.source_data[0]
    assert (source.hash, source.verification, source.role) == ("sha256:abc123...", "unverified", "training")
    assert list(done.feature_pipelines[0].transformations) == ["scaling", "encoding"]
    assert done.training_code == GUIDE.training_code
    assert dict(done.dependencies) == {"python": "3.9.16", "xgboost": "1.7.3"}
    assert (await registry.events("LineageCreated"))[0]["model_version"] == "2.1.1"
    assert (await ada.GetLineage(pb.GetLineageRequest(model_id="fraud"))).lineage == done
    upstream = await nodes(ada, "model_version", "fraud", "upstream")
    assert upstream == [
        "1 code ml-models/fraud-detection a1b2c3d4",
        "1 dataset transactions_2024_q1 1.3",
        "1 pipeline fraud_features_v3 1.2",
    ]
    for kind, name in (("code", "ml-models/fraud-detection"), ("pipeline", "fraud_features_v3")):
        assert await nodes(ada, kind, name, "downstream") == ["1 model_version fraud 2.1.1"]


async def test_the_same_lineage_again_is_the_same_and_another_one_is_refused(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await register(ada)
    await add_dataset(ada, "q1")
    first = (await ada.CreateLineage(lineage("fraud", "1.0.0", "q1"))).lineage
    assert first.source_data[0].verification == "verified"
    assert (await ada.CreateLineage(lineage("fraud", "", "q1"))).lineage == first
    error = await refused("lineage_exists", ada.CreateLineage(lineage("fraud", "1.0.0", "q1", "q2")))
    assert isinstance(error, AlreadyExists)
    assert error.fields["lineage_id"] == first.lineage_id
    assert len(await registry.events("LineageCreated")) == 1


async def test_the_same_lineage_many_times_at_once_is_one(
    registry: Running, ada: RegistryServiceStub
) -> None:
    await register(ada)
    done = await asyncio.gather(*(ada.CreateLineage(lineage("fraud", "", "q1")) for _ in range(5)))
    assert all(each == done[0] for each in done)


async def test_a_hash_other_than_the_registered_one_is_a_mismatch(ada: RegistryServiceStub) -> None:
    await register(ada)
    await add_dataset(ada, "q1", digest=digest_of(b"other rows"))
    done = (await ada.CreateLineage(lineage("fraud", "", "q1"))).lineage
    assert done.source_data[0].verification == "mismatch"


async def test_lineage_is_walked_over_any_number_of_edges_in_both_directions(
    ada: RegistryServiceStub,
) -> None:
    await add_dataset(ada, "raw")
    await add_dataset(ada, "clean", derived=[{"dataset": "raw", "version": "1"}])
    await add_dataset(ada, "features", derived=[{"dataset": "clean", "version": "1"}])
    await register(ada)
    await ada.CreateLineage(lineage("fraud", "", "features"))
    await add_dataset(ada, "scores", derived=[{"model": "fraud", "version": "1.0.0"}])
    assert await nodes(ada, "dataset", "scores", "upstream") == [
        "1 model_version fraud 1.0.0",
        "2 dataset features 1",
        "3 dataset clean 1",
        "4 dataset raw 1",
    ]
    assert await nodes(ada, "dataset", "raw", "downstream", max_distance=2) == [
        "1 dataset clean 1",
        "2 dataset features 1",
    ]
    assert len(await nodes(ada, "dataset", "raw", "downstream", version="1")) == 4
    assert await nodes(ada, "dataset", "raw", "upstream") == []


async def test_a_lineage_that_would_close_a_cycle_is_refused(ada: RegistryServiceStub) -> None:
    await register(ada)
    await add_dataset(ada, "scores", derived=[{"model": "fraud", "version": "1.0.0"}])
    error = await refused("lineage_cycle", ada.CreateLineage(lineage("fraud", "1.0.0", "scores")))
    assert isinstance(error, Refused)
    assert await nodes(ada, "model_version", "fraud", "upstream") == []
    # The other way round: a lineage names a dataset that is registered later.
    await register(ada, "churn")
    await ada.CreateLineage(lineage("churn", "", "labels"))
    await refused(
        "lineage_cycle", add_dataset(ada, "labels", derived=[{"model": "churn", "version": "1.0.0"}])
    )


async def test_of_two_lineages_that_close_a_cycle_together_one_is_refused(ada: RegistryServiceStub) -> None:
    for model_id in ("a", "b"):
        await register(ada, model_id)
        await add_dataset(ada, f"from-{model_id}", derived=[{"model": model_id, "version": "1.0.0"}])
    done = await asyncio.gather(
        ada.CreateLineage(lineage("a", "", "from-b")),
        ada.CreateLineage(lineage("b", "", "from-a")),
        return_exceptions=True,
    )
    assert sum(isinstance(each, BaseException) for each in done) == 1


async def test_a_node_that_nobody_named_is_not_found(ada: RegistryServiceStub) -> None:
    await register(ada)
    error = await refused("lineage_node_not_found", nodes(ada, "dataset", "nothing", "upstream"))
    assert isinstance(error, NotFound)
    await refused("lineage_node_not_found", nodes(ada, "model_version", "fraud", "upstream", version="9"))
    await refused("invalid_request", nodes(ada, "person", "ada", "upstream"))
    await refused("invalid_request", nodes(ada, "dataset", "raw", "sideways"))
    await refused("lineage_not_found", ada.GetLineage(pb.GetLineageRequest(model_id="fraud")))
    await refused("version_not_found", ada.GetLineage(pb.GetLineageRequest(model_id="fraud", version="9")))
    await refused("model_not_found", ada.CreateLineage(lineage("nothing", "", "q1")))


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"source_data": [model_pb.SourceData(version="1")]}, "source_data[0].dataset"),
        ({"source_data": [model_pb.SourceData(dataset="a")]}, "source_data[0].version"),
        (
            {"source_data": [model_pb.SourceData(dataset="a", version="1", verification="verified")]},
            "source_data[0].verification",
        ),
        ({"feature_pipelines": [model_pb.FeaturePipeline(pipeline="p")]}, "feature_pipelines[0].version"),
        ({"training_code": model_pb.TrainingCode(repository="r")}, "training_code.commit"),
        (
            {"source_data": [model_pb.SourceData(dataset="a", version="1", hash="x" * 501)]},
            "source_data[0].hash",
        ),
        ({}, "source_data"),
    ],
)
async def test_a_lineage_that_says_too_little_is_refused_by_field(
    ada: RegistryServiceStub, part: dict[str, Any], field: str
) -> None:
    await register(ada)
    request = pb.CreateLineageRequest(model_id="fraud", **part)
    codes = {"source_data[0].dataset": "invalid_name", "source_data[0].verification": "output_only"}
    codes |= {"source_data[0].hash": "text_too_long", "source_data": "empty_lineage"}
    error = await refused(codes.get(field, "missing_field"), ada.CreateLineage(request))
    assert isinstance(error, Invalid)
    assert error.violations[0].field == field


async def test_a_dataset_is_known_by_its_content(registry: Running, ada: RegistryServiceStub) -> None:
    with assert_audited(registry.serving.registry):
        first = await add_dataset(ada, "q1", "1.0", uri="s3://b/q1", rows=10)
    assert await add_dataset(ada, "q1", "1.0", uri="s3://b/q1", rows=10) == first
    error = await refused("dataset_exists", add_dataset(ada, "q1", "1.0", uri="s3://b/q1", rows=11))
    assert error.fields["differs"] == "rows"
    await refused("dataset_exists", add_dataset(ada, "q1", "1.0", digest=digest_of(b"x")))
    await add_dataset(ada, "q1", "1.1")
    assert (await ada.GetDataset(pb.GetDatasetRequest(name="q1"))).dataset.version == "1.1"
    assert (await ada.GetDataset(pb.GetDatasetRequest(name="q1", version="1.0"))).dataset == first
    await refused("dataset_not_found", ada.GetDataset(pb.GetDatasetRequest(name="q1", version="2")))
    page = await ada.ListDatasets(pb.ListDatasetsRequest(page_size=1))
    rest = await ada.ListDatasets(pb.ListDatasetsRequest(page_size=1, page_token=page.next_page_token))
    assert [each.version for each in (*page.datasets, *rest.datasets)] == ["1.1", "1.0"]
    events = await registry.events("DatasetRegistered")
    assert [(each["dataset_version"], each["number"]) for each in events] == [("1.0", 1), ("1.1", 2)]


async def test_a_dataset_derived_from_what_is_not_registered_is_refused(ada: RegistryServiceStub) -> None:
    for source in ({"dataset": "raw", "version": "1"}, {"model": "fraud", "version": "1"}):
        error = await refused("unknown_source", add_dataset(ada, "clean", derived=[source]))
        assert isinstance(error, Invalid)
        assert error.violations[0].field == "metadata.derived_from[0]"
    await refused("dataset_not_found", ada.GetDataset(pb.GetDatasetRequest(name="clean")))


async def test_request_ids_hold_for_datasets_and_lineage_too(ada: RegistryServiceStub) -> None:
    await register(ada)
    first = await add_dataset(ada, "q1", request_id="r1")
    assert await add_dataset(ada, "q1", request_id="r1") == first
    await refused("request_id_reused", add_dataset(ada, "q2", request_id="r1"))
    made = await ada.CreateLineage(lineage("fraud", "", "q1", request_id="r2"))
    assert await ada.CreateLineage(lineage("fraud", "", "q1", request_id="r2")) == made
    await refused("request_id_reused", ada.CreateLineage(lineage("fraud", "", "q2", request_id="r2")))
