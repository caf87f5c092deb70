"""A canary from 10 % to the end and back, judged by what anyone can recompute offline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest

from harness import models, oip
from harness.waiting import eventually
from phantom_ml_studio.errors import Failed, Refused, Unsupported

if TYPE_CHECKING:
    from conftest import Studio
    from harness.people import People
    from phantom_ml_studio.values import Deployment

UNITS = [f"user-{n}" for n in range(200)]


def served(door: oip.Door, endpoint: str) -> dict[str, tuple[str, str, int]]:
    """Unit → (revision, variant, route version) of one call each, on one stream."""
    requests = [
        oip.request(endpoint, {"amount": [0.2], "hour": [0.5]}, id=unit, user_id=unit) for unit in UNITS
    ]
    found = {}
    for answer in door.stream(requests):
        assert answer.error_message == ""
        told = answer.infer_response.parameters
        found[answer.infer_response.id] = (
            told["phantom_revision"].string_param,
            told["phantom_variant"].string_param,
            int(told["phantom_route_version"].string_param),
        )
    return found


def assert_as_computed(studio: Studio, endpoint: str, found: dict[str, tuple[str, str, int]]) -> set[str]:
    """Each answer is the one that its route version gives offline; returns who got the candidate."""
    (version,) = {version for _, _, version in found.values()}
    route = studio.deployments.route(endpoint, version)
    for unit, (revision, variant, _) in found.items():
        explained = route.explain(unit)
        assert (revision, variant) == (explained.revision, explained.arm), explained.sentence
    return {unit for unit, (_, variant, _) in found.items() if variant == "candidate"}


@pytest.fixture(scope="module")
def rolled(studio: Studio, run_id: str) -> Deployment:
    """A deployment with a ready candidate at 0 %."""
    name = f"canary-{run_id}"
    studio.serve_boosters(name)
    return studio.add_candidate(name)


def test_a_canary_grows_from_10_to_100_percent_without_moving_a_unit_back_and_is_completed(
    rolled: Deployment, studio: Studio, door: oip.Door
) -> None:
    before: set[str] = set()
    assert assert_as_computed(studio, rolled.id, served(door, rolled.id)) == set()
    for percent in (10.0, 30.0, 100.0):
        moved = studio.deployments.set_canary_weight(rolled.id, percent)
        assert moved.candidate_percent == percent
        candidates = assert_as_computed(studio, rolled.id, served(door, rolled.id))
        assert candidates >= before
        before = candidates
    assert before == set(UNITS)
    back = studio.deployments.set_canary_weight(rolled.id, 20)
    fewer = assert_as_computed(studio, rolled.id, served(door, rolled.id))
    assert 15 < len(fewer) < 70
    with pytest.raises(Refused) as second:
        studio.deployments.deploy(rolled.model_id, "1.0.0")
    assert second.value.code == "candidate_live"
    assert f"{rolled.id}.2" in second.value.message
    assert pinned(door, rolled.id, "1.0.0") == f"{rolled.id}.1"
    assert pinned(door, rolled.id, "1.1.0") == f"{rolled.id}.2"

    done = studio.deployments.complete_rollout(rolled.id)
    assert done.stable is not None
    assert done.stable.revision == f"{rolled.id}.2"
    assert done.candidate is None
    assert done.route_version > back.route_version
    assert {revision for revision, _, _ in served(door, rolled.id).values()} == {f"{rolled.id}.2"}
    studio.deployments.wait_withdrawn(rolled.id)
    with pytest.raises(grpc.RpcError) as gone:
        pinned(door, rolled.id, "1.0.0")
    assert oip.failure(gone.value).status == "NOT_FOUND"
    assert oip.failure(gone.value).code == "version_not_found"


def pinned(door: oip.Door, endpoint: str, version: str) -> str:
    """The revision that answers a pinned version."""
    message = oip.request(endpoint, {"amount": [0.2], "hour": [0.5]}, version=version, user_id="u")
    return door.infer(message).headers["phantom-revision"]


def test_a_model_id_and_a_deployment_name_one_endpoint_with_its_metadata(
    shop: Deployment, door: oip.Door
) -> None:
    assert shop.aliases == (shop.model_id,)
    for name in (shop.id, shop.model_id):
        assert door.ask("ModelReady", name=name).ready
        metadata = door.ask("ModelMetadata", name=name)
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
            ("features", "FP64", [-1, 2])
        ]
        assert [t.name for t in metadata.outputs] == ["label", "probabilities", "score"]
        assert list(metadata.versions) == ["1.0.0"]
        assert door.rest.get(f"/v2/models/{name}/ready").status_code == 200
        assert door.rest.get(f"/v2/models/{name}/versions/1.0.0").json()["platform"] == metadata.platform
        reply = door.infer(oip.request(name, {"amount": [0.9], "hour": [0.5]}))
        assert reply.headers["phantom-revision"] == f"{shop.id}.1"
    assert not door.ask("ModelReady", name="nothing").ready
    assert not door.ask("ModelReady", name=shop.id, version="9.9.9").ready
    assert door.rest.get("/v2/models/nothing/ready").status_code in (400, 404, 503)
    assert door.ask("ServerLive").live
    assert door.ask("ServerReady").ready


def test_a_rollback_gives_everything_back_and_removes_the_candidate(
    studio: Studio, door: oip.Door, run_id: str
) -> None:
    name = f"rollback-{run_id}"
    made = studio.serve_boosters(name)
    studio.add_candidate(name, canary_percent=50.0)
    eventually(lambda: studio.deployments.get(made.id).candidate_percent == 50.0, "the candidate's share")
    back = studio.deployments.rollback_canary(made.id, reason="worse")
    assert back.candidate_percent == 0
    assert {variant for _, variant, _ in served(door, made.id).values()} == {"control"}
    studio.deployments.rollback_canary(made.id, remove=True, reason="worse")
    gone = studio.deployments.wait_withdrawn(made.id)
    assert gone.candidate is None
    with pytest.raises(Refused) as none_left:
        studio.deployments.set_canary_weight(made.id, 10)
    assert none_left.value.code == "no_candidate"
    studio.deployments.delete(made.id)


# What is done to the file's text, and a word of the reason that is then given.
CORRUPTIONS: dict[str, tuple[Callable[[str], str], str]] = {
    "a tree that points nowhere": (
        lambda text: text.replace('"left_children":[1', '"left_children":[77'),
        "node",
    ),
    "half of the file": (lambda text: text[: len(text) // 2], "not JSON"),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_a_corrupt_model_file_stops_the_rollout_and_the_old_revision_serves_on(
    what: str, studio: Studio, door: oip.Door, run_id: str
) -> None:
    corrupt, word = CORRUPTIONS[what]
    name = f"corrupt-{list(CORRUPTIONS).index(what)}-{run_id}"
    made = studio.serve(name, models.xgboost_file(studio.file(f"{name}.json"), 1))
    broken = models.xgboost_file(studio.file(f"{name}-broken.json"), 2)
    text = broken.read_text()
    broken.write_text(corrupt(text))
    assert broken.read_text() != text
    studio.registry.create_version(name, "1.1.0", broken)
    studio.deployments.deploy(name, "1.1.0", canary_percent=50.0)
    with pytest.raises(Failed) as failed:
        studio.deployments.wait_ready(made.id)
    assert failed.value.code == "revision_failed"
    assert f"{made.id}.2" in failed.value.message
    assert word in failed.value.message
    assert {revision for revision, _, _ in served(door, made.id).values()} == {f"{made.id}.1"}
    assert door.ask("ModelReady", name=made.id).ready
    studio.deployments.delete(made.id)


def test_stored_bytes_that_do_not_match_their_digest_are_not_loaded(
    studio: Studio, door: oip.Door, run_id: str
) -> None:
    name = f"tampered-{run_id}"
    made = studio.serve(name, models.xgboost_file(studio.file(f"{name}.json"), 1))
    version = studio.registry.create_version(name, "1.1.0", models.xgboost_file(studio.file("t.json"), 2))
    stored = studio.artifact(version.digest)
    stored.chmod(0o600)
    stored.write_bytes(models.xgboost_file(studio.file("other.json"), 3).read_bytes())
    studio.deployments.deploy(name, "1.1.0")
    with pytest.raises(Failed) as failed:
        studio.deployments.wait_ready(made.id)
    assert "sha256" in failed.value.message
    assert {revision for revision, _, _ in served(door, made.id).values()} == {f"{made.id}.1"}
    studio.deployments.delete(made.id)


def test_an_environment_of_type_kubernetes_is_refused(people: People) -> None:
    from phantom_ml_studio import Environments

    environments = Environments(people.admin.client)
    with pytest.raises(Unsupported) as refused:
        environments.create("cluster", "kubernetes")
    assert refused.value.code == "environment_type_unsupported"
    assert "kubernetes" in refused.value.message
    assert ("production", "local") in {(e.name, e.type) for e in environments.list()}
