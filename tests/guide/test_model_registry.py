"""The guide's section on the model registry, run as it is written, by an engineer in a folder with two pickles."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from harness import models
from harness.people import REVIEWER, People
from phantom_ml_studio import ModelRegistry
from phantom_ml_studio.errors import AlreadyExists, Conflict, Forbidden, Refused
from phantom_ml_studio.registry import file_digest

SECTION = Path(__file__).with_name("model_registry.md")
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION.read_text(), re.DOTALL)
MODEL = "fraud-detection-v2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the engineer works."""
    made = tmp_path_factory.mktemp("guide")
    (made / "models").mkdir()
    models.pickle_file(made / "models" / "fraud_detector_v2.pkl")
    models.pickle_file(made / "models" / "fraud_detector_v2_1.pkl")
    return made


@pytest.fixture(scope="module")
def names(folder: Path, people: People) -> dict[str, Any]:
    """What the guide's code leaves behind: its three blocks after one another, as in one program."""
    found: dict[str, Any] = {"client": people.engineer.client}
    with chdir(folder):
        for block in BLOCKS:
            exec(compile(block, str(SECTION), "exec"), found)
    return found


def test_the_section_has_its_three_blocks() -> None:
    assert len(BLOCKS) == 3
    for call in ("register_model", "create_version", "promote_model", "create_lineage"):
        assert sum(f"registry.{call}(" in block for block in BLOCKS) == 1


def test_the_model_is_registered_under_its_name_with_what_was_said(
    names: dict[str, Any], folder: Path, people: People
) -> None:
    registration = names["model_registration"]
    assert registration.model_id == MODEL
    version = ModelRegistry(people.engineer.client).get_version(MODEL, "2.1.0")
    assert version.digest == file_digest(folder / "models" / "fraud_detector_v2.pkl")
    assert version.framework == "scikit-learn"
    assert version.stage == "staging"
    assert version.claimed_metrics == {
        "accuracy": 0.947,
        "precision": 0.923,
        "recall": 0.891,
        "f1_score": 0.907,
    }
    assert version.metadata["training_config"]["dataset_size"] == 1_000_000
    model = ModelRegistry(people.engineer.client).get_model(MODEL)
    assert set(model.tags) == {"fraud", "production", "xgboost"}
    assert model.description == "Enhanced fraud detection with deep learning"


def test_the_second_version_keeps_its_changes_and_what_they_claim(
    names: dict[str, Any], people: People
) -> None:
    assert names["model_version"].version == "2.1.1"
    version = ModelRegistry(people.engineer.client).get_version(MODEL, "2.1.1")
    assert version.changes[0] == "Improved feature engineering pipeline"
    assert len(version.changes) == 3
    assert version.performance_comparison["improvements"]["latency"] == "-15ms"
    assert version.performance_comparison["baseline_version"] == "2.1.0"


def test_the_promotion_waits_for_the_reviewer_who_alone_may_grant_it(
    names: dict[str, Any], people: People
) -> None:
    engineer, reviewer = ModelRegistry(people.engineer.client), ModelRegistry(people.reviewer.client)
    (pending,) = [p for p in engineer.list_approvals("pending", MODEL) if p.version == "2.1.1"]
    assert (pending.state, pending.reviewer, pending.requested_by) == (
        "pending",
        REVIEWER,
        people.engineer.name,
    )
    assert engineer.get_version(MODEL, "2.1.1").stage == "staging"
    with pytest.raises(Forbidden) as refused:
        engineer.grant_approval(pending.id)
    assert refused.value.code == "own_request"
    granted = reviewer.grant_approval(pending.id, "looks good")
    assert (granted.state, granted.decided_by) == ("executed", REVIEWER)
    assert engineer.get_version(MODEL, "2.1.1").stage == "production"
    with pytest.raises(Refused) as again:
        reviewer.grant_approval(pending.id)
    assert again.value.code == "already_decided"
    with pytest.raises(Conflict) as stale:
        engineer.promote_model(MODEL, "2.1.1", from_stage="staging", to_stage="archived")
    assert stale.value.code == "stale_stage"


def test_the_lineage_stands_and_can_be_asked_in_both_directions(
    names: dict[str, Any], people: People
) -> None:
    lineage = names["lineage"]
    assert lineage.source_data[0]["dataset"] == "transactions_2024_q1"
    assert lineage.source_data[0]["verification"] == "unverified"
    assert lineage.training_code["commit"] == "a1b2c3d4"
    assert lineage.dependencies["xgboost"] == "1.7.3"
    registry = ModelRegistry(people.engineer.client)
    up = registry.query_lineage("model_version", MODEL, lineage.version, "upstream")
    assert {(n.kind, n.name) for n in up} >= {
        ("dataset", "transactions_2024_q1"),
        ("pipeline", "fraud_features_v3"),
    }
    down = registry.query_lineage("dataset", "transactions_2024_q1", "1.3", "downstream")
    assert (MODEL, lineage.version) in {(n.name, n.version) for n in down}


def test_the_same_version_again_is_the_same_and_other_bytes_are_refused(
    names: dict[str, Any], folder: Path, people: People
) -> None:
    registry = ModelRegistry(people.engineer.client)
    before = registry.get_version(MODEL, "2.1.1")
    again = registry.create_version(
        MODEL, "2.1.1", folder / "models" / "fraud_detector_v2_1.pkl", changes=before.changes
    )
    assert again.digest == before.digest
    with pytest.raises(AlreadyExists) as other:
        registry.create_version(MODEL, "2.1.1", folder / "models" / "fraud_detector_v2.pkl")
    assert other.value.code == "version_exists"
