from dataclasses import replace

import pytest

from phantom_deployer.domain import facts, rollout
from phantom_deployer.domain.deployment import Deployment, generated_id
from phantom_deployer.tests.builders import created, model, schema
from phantom_platform.errors import Invalid, Refused
from phantom_statistics.assignment import Allocation, bucket


def ready(deployment: Deployment) -> Deployment:
    for each in deployment.revisions:
        if each.phase == "pending":
            deployment = deployment.with_revision(replace(each, phase="ready", was_ready=True))
    return deployment


def with_candidate(**changes: object) -> Deployment:
    deployment, _ = rollout.add_revision(
        ready(created()), model("1.1.0"), bp=0, vouched=False, entropy="s1", used={}
    )
    return replace(ready(deployment), **changes)  # type: ignore[arg-type]


def add(deployment: Deployment, version: str = "1.2.0", **changes: object) -> Deployment:
    options = {"bp": 0, "vouched": False, "entropy": "s2", "used": {}} | changes
    return rollout.add_revision(deployment, model(version), **options)[0]  # type: ignore[arg-type]


def test_the_first_revision_is_the_stable_one() -> None:
    deployment = created()
    assert (deployment.stable, deployment.candidate) == ("fraud-prod.1", "")
    assert ":" not in deployment.salt


def test_another_version_becomes_the_candidate_without_traffic_and_with_a_salt_of_its_own() -> None:
    before = ready(created())
    deployment, happened = rollout.add_revision(
        before, model("1.1.0"), bp=1000, vouched=False, entropy="s1", used={}
    )
    assert deployment.candidate == "fraud-prod.2"
    assert deployment.allocations == ()
    assert deployment.pending_bp == 1000
    assert deployment.salt not in (before.salt, "")
    assert happened == (facts.Added("fraud-prod.2"),)


def test_a_second_candidate_is_refused_naming_the_live_one() -> None:
    with pytest.raises(Refused, match=r"fraud-prod\.2 .*1\.1\.0") as error:
        add(with_candidate())
    assert error.value.code == "candidate_live"


def test_a_rolled_back_candidate_is_replaced_and_withdrawn() -> None:
    rolled_back, _ = rollout.roll_back(with_candidate(), remove=False, reason="bad", used={})
    deployment = add(rolled_back)
    assert deployment.candidate == "fraud-prod.3"
    old = deployment.revision("fraud-prod.2")
    assert old is not None
    assert old.phase == "withdrawing"


def test_a_failed_first_revision_is_replaced_by_the_next() -> None:
    deployment = created()
    failed = deployment.with_revision(replace(deployment.revisions[0], phase="failed"))
    deployment = add(failed)
    assert (deployment.stable, deployment.candidate) == ("fraud-prod.2", "")


def test_newly_required_features_are_refused_by_name_unless_vouched_for() -> None:
    wider = model("1.1.0", schema("a", "b", "wind", "rain"))
    with pytest.raises(Refused, match="rain and wind") as error:
        rollout.add_revision(ready(created()), wider, bp=0, vouched=False, entropy="s", used={})
    assert error.value.code == "new_features_required"
    deployment, _ = rollout.add_revision(ready(created()), wider, bp=0, vouched=True, entropy="s", used={})
    assert deployment.candidate


def test_new_optional_features_need_no_vouching() -> None:
    wider = model("1.1.0", schema("a", "b", optional=("wind",)))
    assert rollout.add_revision(ready(created()), wider, bp=0, vouched=False, entropy="s", used={})


def test_other_class_labels_are_noted_and_not_refused() -> None:
    other = model("1.1.0", schema(labels=("no", "maybe", "yes")))
    deployment, happened = rollout.add_revision(
        ready(created()), other, bp=0, vouched=False, entropy="s", used={}
    )
    assert "class labels" in deployment.revision("fraud-prod.2").reason  # type: ignore[union-attr]
    assert "class labels" in happened[0].reason


@pytest.mark.parametrize(("percent", "bp"), [(0, 0), (0.01, 1), (12.5, 1250), (33.33, 3333), (100, 10000)])
def test_percent_becomes_basis_points(percent: float, bp: int) -> None:
    assert rollout.basis_points(percent) == bp


@pytest.mark.parametrize("percent", [0.001, 33.333, 100.01, -1])
def test_a_share_finer_than_a_bucket_is_refused(percent: float) -> None:
    with pytest.raises(Invalid, match=r"0\.01"):
        rollout.basis_points(percent)


def test_weights_go_up_and_down_without_moving_a_unit_back() -> None:
    deployment = with_candidate()
    salt = deployment.salt
    seen: set[int] = set()
    for bp in (1000, 2500, 5000, 10000):
        deployment, _ = rollout.set_weight(deployment, bp)
        inside = {u for u in range(2000) if _is_in(deployment.allocations, bucket(salt, str(u)))}
        assert seen <= inside
        seen = inside
    deployment, happened = rollout.set_weight(deployment, 2500)
    assert deployment.candidate_bp == 2500
    assert happened == (facts.WeightSet("fraud-prod.2", 2500, 10000),)
    assert deployment.salt == salt


def _is_in(allocations: tuple[Allocation, ...], place: int) -> bool:
    return any(each.start <= place < each.end for each in allocations)


def test_the_same_weight_again_happens_to_nobody() -> None:
    deployment, _ = rollout.set_weight(with_candidate(), 2500)
    assert rollout.set_weight(deployment, 2500) == (deployment, ())


def test_weight_needs_a_candidate_that_was_ready() -> None:
    with pytest.raises(Refused) as error:
        rollout.set_weight(ready(created()), 100)
    assert error.value.code == "no_candidate"
    with pytest.raises(Refused) as error:
        rollout.set_weight(add(ready(created())), 100)
    assert error.value.code == "candidate_not_ready"


def test_completing_makes_the_candidate_stable_and_empties_the_allocations() -> None:
    deployment, _ = rollout.set_weight(with_candidate(), 5000)
    deployment, happened = rollout.complete(deployment, {})
    assert (deployment.stable, deployment.candidate) == ("fraud-prod.2", "")
    assert deployment.allocations == ()
    assert deployment.revision("fraud-prod.1").phase == "withdrawing"  # type: ignore[union-attr]
    assert happened == (facts.Completed("fraud-prod.2", "fraud-prod.1"),)


def test_a_rolled_back_candidate_cannot_complete_until_it_has_traffic_again() -> None:
    deployment, _ = rollout.roll_back(with_candidate(), remove=False, reason="", used={})
    with pytest.raises(Refused) as error:
        rollout.complete(deployment, {})
    assert error.value.code == "candidate_rolled_back"
    deployment, _ = rollout.set_weight(deployment, 100)
    assert rollout.complete(deployment, {})[0].stable == "fraud-prod.2"


def test_rolling_back_takes_all_traffic_and_keeps_the_candidate() -> None:
    deployment, _ = rollout.set_weight(with_candidate(), 5000)
    deployment, happened = rollout.roll_back(deployment, remove=False, reason="errors", used={})
    assert deployment.allocations == ()
    assert deployment.candidate_revision.phase == "rolled_back"  # type: ignore[union-attr]
    assert happened == (facts.RolledBack("fraud-prod.2", "errors"),)


def test_rolling_back_with_remove_withdraws_the_candidate() -> None:
    deployment, _ = rollout.roll_back(with_candidate(), remove=True, reason="", used={})
    assert deployment.candidate == ""
    assert deployment.revision("fraud-prod.2").phase == "withdrawing"  # type: ignore[union-attr]


def test_what_a_running_experiment_uses_is_not_taken_away() -> None:
    used = {"fraud-prod.1": "exp-7", "fraud-prod.2": "exp-7"}
    deployment = with_candidate()
    for attempt in (
        lambda: rollout.complete(deployment, used),
        lambda: rollout.roll_back(deployment, remove=True, reason="", used=used),
        lambda: rollout.delete(deployment, used),
    ):
        with pytest.raises(Refused, match="exp-7") as error:
            attempt()
        assert error.value.code == "revision_in_experiment"
    assert rollout.roll_back(deployment, remove=False, reason="", used=used)


def test_nothing_changes_while_deleting() -> None:
    deployment, _ = rollout.delete(with_candidate(), {})
    for attempt in (
        lambda: add(deployment),
        lambda: rollout.set_weight(deployment, 1),
        lambda: rollout.scale(deployment, 2),
    ):
        with pytest.raises(Refused) as error:
            attempt()
        assert error.value.code == "deployment_deleting"
    assert rollout.delete(deployment, {}) == (deployment, ())


def test_the_production_suffix_is_prod_and_others_are_their_name() -> None:
    assert generated_id("fraud-detection-v2", "production") == "fraud-detection-v2-prod"
    assert generated_id("fraud", "staging") == "fraud-staging"


def test_a_generated_id_that_is_too_long_asks_for_one() -> None:
    with pytest.raises(Invalid, match="give a deployment id"):
        generated_id("m" * 60, "production")


def test_numbers_go_on_after_a_deployment_of_that_name_was_deleted() -> None:
    buried = replace(with_candidate(), route_version=7, version=20)
    deployment, _ = rollout.create(
        workspace="default",
        deployment_id="fraud-prod",
        environment="production",
        model=model(),
        replicas=1,
        hash_field="user_id",
        aliases=(),
        now=buried.created_at,
        created_by="ann",
        entropy="s9",
        buried=buried,
    )
    assert deployment.stable == "fraud-prod.3"
    assert (deployment.route_version, deployment.version) == (7, 20)
