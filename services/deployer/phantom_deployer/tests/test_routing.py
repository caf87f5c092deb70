from dataclasses import replace

from phantom_deployer.domain import rollout
from phantom_deployer.domain.deployment import Deployment, Revision
from phantom_deployer.domain.routing import RoutedRevision, desired_route
from phantom_deployer.tests.builders import World, created, model, schema


def ready_with_candidate(candidate_schema: object = None) -> Deployment:
    world = World(created())
    world.until_ready()
    version = model("1.1.0", candidate_schema) if candidate_schema else model("1.1.0")  # type: ignore[arg-type]
    world.deployment, _ = rollout.add_revision(
        world.deployment, version, bp=0, vouched=True, entropy="s", used={}
    )
    world.until_ready()
    return world.deployment


def test_there_is_no_route_before_the_first_revision_is_ready() -> None:
    assert desired_route(created()) is None


def test_a_ready_candidate_without_traffic_is_routed_and_can_be_pinned() -> None:
    route = desired_route(ready_with_candidate())
    assert route is not None
    assert route.arms == {"control": "fraud-prod.1", "candidate": "fraud-prod.2"}
    assert route.allocations == ()
    assert all(each.is_pinnable for each in route.revisions)


def test_a_rolled_back_candidate_cannot_be_pinned_by_anyone() -> None:
    deployment, _ = rollout.roll_back(ready_with_candidate(), remove=False, reason="", used={})
    route = desired_route(deployment)
    assert route is not None
    assert [each.is_pinnable for each in route.revisions] == [True, False]


def test_columns_are_appended_and_optional_again_once_nobody_requires_them() -> None:
    deployment = ready_with_candidate(schema("a", "b", "wind"))
    route = desired_route(deployment)
    assert route is not None
    assert [(c.name, c.required) for c in route.schema.columns] == [("a", True), ("b", True), ("wind", True)]
    deployment, _ = rollout.roll_back(
        replace(deployment, schema=route.schema), remove=True, reason="", used={}
    )
    gone = replace(deployment, processes=deployment.replicas_of("fraud-prod.1"))
    later = desired_route(gone)
    assert later is not None
    assert [(c.name, c.required) for c in later.schema.columns] == [
        ("a", True),
        ("b", True),
        ("wind", False),
    ]


def test_arms_of_other_deployments_are_routed_unless_clients_lack_their_features() -> None:
    deployment = ready_with_candidate()
    fits = RoutedRevision(Revision("other.1", 1, model("3.0.0", model_id="other"), "ready"), ())
    needs = RoutedRevision(
        Revision("wide.1", 1, model("3.0.0", schema("a", "b", "wind"), model_id="wide"), "ready"), ()
    )
    route = desired_route(deployment, [fits, needs])
    assert route is not None
    assert [each.revision.id for each in route.revisions] == ["fraud-prod.1", "fraud-prod.2", "other.1"]
    assert all(column.name != "wind" for column in route.schema.columns)
