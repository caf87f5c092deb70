"""The arithmetic of a route, recomputed offline."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phantom.deployer.v1 import deployer_service_pb2 as deployer
from phantom_ml_studio import Route
from phantom_ml_studio.tests.fake_platform import FakePlatform
from phantom_ml_studio.tests.test_cli_calls import run
from phantom_statistics import assignment

RECORD: dict[str, Any] = {
    "endpoint": "m-prod",
    "version": 7,
    "endpoint_schema": {"columns": [{"name": "a"}]},
    "hash_field": "tailnum",
    "salt": "s",
    "allocations": [{"start": 0, "end": 2500, "arm": "candidate"}],
    "arms": {"control": "m-prod.1", "candidate": "m-prod.2"},
    "revisions": [
        {"id": "m-prod.1", "model_id": "m", "model_version": "1.0.0"},
        {"id": "m-prod.2", "model_id": "m", "model_version": "1.1.0"},
    ],
}


def test_each_unit_gets_the_arm_of_its_bucket_and_the_sentence_says_why() -> None:
    route = Route.of(RECORD)
    arms = set()
    for number in range(100):
        unit = f"N{number}"
        explained = route.explain(unit)
        assert explained.bucket == assignment.bucket("s", unit)
        expected = "candidate" if explained.bucket < 2500 else "control"
        assert (explained.arm, explained.revision) == (expected, RECORD["arms"][expected])
        assert explained.model_version == ("1.1.0" if expected == "candidate" else "1.0.0")
        for part in (str(explained.bucket), repr(unit), "[0, 2500) → candidate", explained.revision):
            assert part in explained.sentence
        arms.add(expected)
    assert arms == {"control", "candidate"}


def test_numbers_and_booleans_are_units_as_their_text_and_floating_point_is_refused() -> None:
    route = Route.of(RECORD)
    assert route.explain(12).bucket == route.explain("12").bucket
    assert route.explain(True).unit == "true"
    with pytest.raises(ValueError, match="not float"):
        route.explain(1.5)  # type: ignore[arg-type]


def test_the_command_explains_without_sending_anything_to_the_endpoint(logged_in: FakePlatform) -> None:
    logged_in.answer("GetRoute", deployer.GetRouteResponse(version=7, record_json=json.dumps(RECORD)))
    found = json.loads(run("explain-route", "m", "N1", "-o", "json").stdout)
    assert found["hash_field"] == "tailnum"
    assert found["route_version"] == 7
    table = run("explain-route", "m", "N1", "--route-version", "7").stdout
    assert "xxh3_64" in table
    assert {name for name, _ in logged_in.seen} == {"GetRoute"}
