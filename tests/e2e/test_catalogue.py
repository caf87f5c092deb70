"""What the registry and the deployer know, asked through the SDK on a whole stack."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from harness import models
from phantom_ml_studio import Deployments, ModelRegistry
from phantom_ml_studio.errors import Forbidden, Invalid, NotFound, Refused

if TYPE_CHECKING:
    from conftest import Studio
    from harness.people import People


def test_models_are_found_by_text_tags_and_stage(studio: Studio) -> None:
    registry = studio.registry
    path = models.xgboost_file(studio.file("found.json"), 3)
    registry.register_model(
        "find-me", path, description="A needle", tags=["hay"], stage="staging", schema=models.SCHEMA
    )
    registry.set_tags("find-me", ["hay", "stack"])
    assert registry.get_model("find-me").tags == ("hay", "stack")
    found = {
        "text": registry.list_models(text="NEEDLE"),
        "tags": registry.list_models(tags=["stack", "hay"]),
        "stage": registry.list_models(tags=["stack"], stage="staging"),
    }
    for how, each in found.items():
        assert [model.model_id for model in each] == ["find-me"], how
    assert registry.list_models(tags=["stack"], stage="production") == []
    with pytest.raises(Invalid, match="development, staging, production, archived"):
        registry.list_models(stage="prod")


def test_an_artifact_comes_back_as_it_was(studio: Studio) -> None:
    path = models.xgboost_file(studio.file("kept.json"), 4)
    version = studio.registry.register_model("kept", path, schema=models.SCHEMA).version
    copy = studio.registry.download(version.digest, studio.file("copy.json"))
    assert copy.read_bytes() == path.read_bytes()
    with pytest.raises(NotFound):
        studio.registry.download("sha256:" + "f" * 64, studio.file("none"))


def test_lineage_reaches_from_a_dataset_to_the_versions_made_from_it(studio: Studio) -> None:
    registry, data = studio.registry, studio.file("rows.csv")
    data.write_text("amount,hour\n1,2\n")
    dataset = registry.register_dataset("rows", "1", data, rows=1, metadata={"source": "test"})
    assert registry.get_dataset("rows").digest == dataset.digest
    assert "rows" in {each.name for each in registry.list_datasets()}
    with pytest.raises(Invalid, match="path or a digest"):
        registry.register_dataset("rows", "2")
    path = models.xgboost_file(studio.file("traced.json"), 5)
    registry.register_model("traced", path, schema=models.SCHEMA)
    with pytest.raises(NotFound):
        registry.get_lineage("traced")
    source = {"dataset": "rows", "version": "1", "hash": dataset.digest}
    registry.create_lineage("traced", {"source_data": [source]}, "1.0.0")
    (kept,) = registry.get_lineage("traced").source_data
    assert kept["verification"] == "verified"
    down = registry.query_lineage("dataset", "rows", "1", "downstream")
    assert [(node.kind, node.name, node.version, node.distance) for node in down] == [
        ("model_version", "traced", "1.0.0", 1)
    ]
    with pytest.raises(Invalid, match="no colour"):
        registry.create_lineage("traced", {"colour": "red"})


def test_a_promotion_is_asked_for_rejected_asked_again_and_granted(studio: Studio, people: People) -> None:
    reviewer = ModelRegistry(people.reviewer.client)
    path = models.xgboost_file(studio.file("promoted.json"), 6)
    studio.registry.register_model("promoted", path, schema=models.SCHEMA, stage="staging")

    def ask() -> str:
        return studio.registry.promote_model(
            "promoted",
            "1.0.0",
            "production",
            "staging",
            approval_required=True,
            reviewer=people.reviewer.name,
        ).id

    first = ask()
    with pytest.raises(Forbidden):
        studio.registry.grant_approval(first)
    assert reviewer.reject_approval(first, "not yet").state == "rejected"
    assert studio.registry.get_version("promoted", "1.0.0").stage == "staging"
    with pytest.raises(Refused, match="rejected already"):
        reviewer.grant_approval(first)
    second = ask()
    assert [each.id for each in reviewer.list_approvals(model_id="promoted")] == [second]
    reviewer.grant_approval(second, "now")
    done = studio.registry.get_promotion(second)
    assert (done.state, done.decided_by) == ("executed", people.reviewer.name)
    assert studio.registry.get_version("promoted").stage == "production"


def test_the_gateways_are_known_and_have_applied_the_routes(studio: Studio, people: People) -> None:
    made = studio.serve("known", models.xgboost_file(studio.file("known.json"), 7))
    live = [each for each in Deployments(people.engineer.client).gateways() if each.state == "live"]
    assert live
    assert all(each.applied[f"default/{made.id}"] >= made.route_version for each in live)
    versions = studio.deployments.route_versions(made.id)
    assert versions == sorted(versions)
    assert versions[-1] == studio.deployments.route(made.id).version
    studio.deployments.delete(made.id)


def test_windows_are_listed_in_time_order(studio: Studio) -> None:
    windows = studio.monitoring.windows("nothing-answered-here")
    assert json.dumps(windows) == "[]"
