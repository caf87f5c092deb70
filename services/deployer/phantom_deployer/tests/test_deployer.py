"""Use cases, store and reconciler together, on a real Postgres."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from phantom_contracts.events.deployer import ShadowRoute
from phantom_deployer.converters import to_requester
from phantom_deployer.domain import rollout
from phantom_deployer.domain.deployment import Deployment, Shadow
from phantom_deployer.domain.rollout import Outcome
from phantom_deployer.domain.values import Call, KnownGateway, Order
from phantom_deployer.service.announcements import commit
from phantom_deployer.tests.builders import model, schema
from phantom_deployer.tests.harness import Deployer, Killed, Saboteur, announced
from phantom_platform.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    Unsupported,
)
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.integration


async def test_a_deployment_becomes_ready_and_its_route_names_its_replicas(deployer: Deployer) -> None:
    revision = await deployer.deploy(replicas=2)
    assert revision == "fraud-prod.1"
    with pytest.raises(NotFound) as error:
        await deployer.route()
    assert error.value.code == "endpoint_not_found"
    await deployer.settle(3)
    deployment = await deployer.get()
    assert deployment.revisions[0].phase == "ready"
    route = await deployer.route()
    assert (route.version, route.endpoint, route.aliases) == (1, "fraud-prod", ("fraud",))
    assert len(route.revisions[0].replicas) == 2
    assert route.arms == {"control": "fraud-prod.1"}


async def test_what_a_service_deploys_is_theirs_for_whom_it_acts(deployer: Deployer) -> None:
    await deployer.deployments.deploy(
        deployer.call(), Order("fraud", "production", "1.0.0", requester="ada@company.com")
    )
    assert (await deployer.get()).created_by == "ada@company.com"


@pytest.mark.parametrize(
    ("caller", "named", "requester"),
    [("ann", "", ""), ("ann", "ann", "ann"), ("pipelines", "ada", "ada"), ("ann", "ada", None)],
)
def test_only_services_act_on_behalf_of_others(caller: str, named: str, requester: str | None) -> None:
    call = Call("default", caller)
    if requester is None:
        with pytest.raises(Forbidden) as error:
            to_requester(call, named)
        assert error.value.code == "cannot_act_for_others"
    else:
        assert to_requester(call, named) == requester


async def test_the_model_id_is_an_alias_in_production_only(deployer: Deployer) -> None:
    await deployer.deployments.create_environment(deployer.call(), "staging", "local")
    await deployer.deploy()
    await deployer.deployments.deploy(deployer.call(), Order("fraud", "staging", "1.0.0"))
    assert (await deployer.get("fraud")).id == "fraud-prod"
    assert (await deployer.get("fraud-staging")).aliases == ()


async def test_a_name_that_is_an_alias_is_taken(deployer: Deployer) -> None:
    await deployer.deploy()
    with pytest.raises(Refused) as error:
        await deployer.deployments.deploy(
            deployer.call(), Order("other", "production", "1.0.0", deployment_id="fraud")
        )
    assert error.value.code == "name_taken"


async def test_a_whole_rollout(deployer: Deployer) -> None:
    await deployer.deploy(replicas=2)
    await deployer.settle(3)
    await deployer.deploy("1.1.0", canary_bp=1000)
    await deployer.settle(3)
    assert (await deployer.get()).candidate_bp == 1000
    answer = await deployer.deployments.set_weight(deployer.call(), "fraud", 5000)
    route = await deployer.route()
    assert (answer.route_version, route.version) == (route.version, answer.route_version)
    assert sum(each.end - each.start for each in route.allocations) == 5000
    salt = route.salt
    completed = await deployer.deployments.complete(deployer.call(), "fraud-prod")
    route = await deployer.route()
    assert route.version == completed.route_version
    assert (route.allocations, route.salt) == ((), salt)
    assert {each.id for each in route.revisions} == {"fraud-prod.1", "fraud-prod.2"}
    await deployer.settle()
    route = await deployer.route()
    assert [each.id for each in route.revisions] == ["fraud-prod.2"]
    assert {process.revision for process in deployer.machine.processes.values()} == {"fraud-prod.2"}
    record = deployer.machine.drains[0][1]
    assert f'"version": {route.version}' in record or f'"version":{route.version}' in record
    names = Counter(each["_type"] for each in await announced(deployer))
    assert names == {
        "DeploymentCreated": 1,
        "RevisionAdded": 2,
        "RevisionReady": 2,
        "CanaryWeightSet": 2,
        "RolloutCompleted": 1,
        "RevisionWithdrawn": 1,
    }


async def _change(deployer: Deployer, change: Callable[[Deployment], Outcome]) -> Deployment:
    async with deployer.store.transaction() as work:
        before = await work.lock(deployer.workspace, "fraud-prod")
        after, happened = change(before)
        return await commit(work, before, after, happened, actor="ann", experiments=deployer.experiments)


async def test_what_rollouts_do_to_a_deployment_is_kept_and_each_is_one_route(deployer: Deployer) -> None:
    await deployer.deploy(replicas=2)
    await deployer.settle(3)
    await deployer.deploy("1.1.0")
    await deployer.settle(3)
    salt = "s-1"
    shadowed = await _change(deployer, lambda d: rollout.set_shadow(d, "fraud-prod.2", 2000, salt))
    assert (await deployer.get()).shadow == Shadow("fraud-prod.2", salt, 2000)
    assert (await deployer.route()).shadow == ShadowRoute(revision="fraud-prod.2", salt=salt, bp=2000)
    cleared = await _change(deployer, rollout.clear_shadow)
    assert cleared.route_version == shadowed.route_version + 1
    assert (await deployer.route()).shadow is None

    await _change(deployer, lambda d: rollout.set_target(d, "fraud-prod.2", 1))
    await deployer.settle()
    assert (await deployer.get()).candidate_revision.target == 1
    assert [len(each.replicas) for each in (await deployer.route()).revisions] == [2, 1]

    before = (await deployer.get()).route_version
    switched = await _change(deployer, lambda d: rollout.complete(d, {}, keep=True))
    assert switched.route_version == before + 1
    await deployer.settle()
    route = await deployer.route()
    assert route.arms == {"control": "fraud-prod.2"}
    assert [len(each.replicas) for each in route.revisions] == [2, 2]
    back = await _change(deployer, lambda d: rollout.switch_back(d, "worse"))
    assert back.route_version == route.version + 1
    route = await deployer.route()
    assert (route.arms["control"], route.allocations) == ("fraud-prod.1", ())
    assert [each.pinnable for each in route.revisions] == [True, False]


async def test_events_of_a_deployment_are_numbered_without_gaps(deployer: Deployer) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    await deployer.deploy("1.1.0", canary_bp=500)
    await deployer.settle(3)
    assert [each["_version"] for each in await announced(deployer)] == [1, 2, 3, 4, 5, 6]


async def test_no_replica_is_drained_while_a_gateway_is_behind(deployer: Deployer) -> None:
    await deployer.deploy(replicas=2)
    await deployer.settle(3)
    deployer.gateways.held.add("g1")
    await deployer.deployments.scale(deployer.call(), "fraud-prod", 1)
    await deployer.settle(5)
    assert deployer.machine.drains == []
    deployer.gateways.held.clear()
    await deployer.settle(3)
    assert len(deployer.machine.drains) == 1


async def test_every_route_version_is_kept(deployer: Deployer) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    await deployer.deploy("1.1.0")
    await deployer.settle(3)
    await deployer.deployments.set_weight(deployer.call(), "fraud-prod", 2500)
    first, versions = await deployer.queries.route(deployer.workspace, "fraud", 1)
    assert versions == [1, 2, 3, 4]  # ready; the rollout's salt; its candidate ready; its weight
    assert first.version == 1
    with pytest.raises(NotFound) as error:
        await deployer.queries.route(deployer.workspace, "fraud", 9)
    assert error.value.code == "route_version_not_found"


async def test_deletion_ends_the_route_then_the_replicas_and_frees_the_names(deployer: Deployer) -> None:
    await deployer.deploy(replicas=2)
    await deployer.settle(3)
    await deployer.deployments.delete(deployer.call(), "fraud")
    with pytest.raises(NotFound) as error:
        await deployer.route()
    assert error.value.code == "route_version_not_found"
    assert len(deployer.machine.processes) == 2
    await deployer.settle()
    assert deployer.machine.processes == {}
    with pytest.raises(NotFound):
        await deployer.get("fraud")
    assert (await announced(deployer))[-1]["_type"] == "DeploymentDeleted"
    assert await deployer.deploy() == "fraud-prod.2"
    await deployer.settle(3)
    assert (await deployer.route()).version == 3


async def test_the_alias_of_a_deleted_deployment_goes_to_the_oldest_of_its_model(deployer: Deployer) -> None:
    await deployer.deploy()
    for name in ("fraud-second", "fraud-third"):
        deployer.clock.advance(1.0)
        await deployer.deploy(deployment_id=name)
        await deployer.settle(3, name)
    await deployer.settle(3)
    await deployer.deployments.delete(deployer.call(), "fraud-prod")
    assert (await deployer.get("fraud")).id == "fraud-second"
    assert (await deployer.route("fraud-second")).aliases == ("fraud",)
    assert (await deployer.route("fraud-third")).aliases == ()
    await deployer.settle()
    assert (await deployer.get("fraud")).id == "fraud-second"


async def test_the_alias_of_the_last_one_is_free_again_or_goes_to_who_came_meanwhile(
    deployer: Deployer,
) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    await deployer.deployments.delete(deployer.call(), "fraud-prod")
    assert (await deployer.get("fraud")).id == "fraud-prod"
    await deployer.deploy(deployment_id="fraud-late")
    assert (await deployer.get("fraud-late")).aliases == ()
    await deployer.settle()
    assert (await deployer.get("fraud")).id == "fraud-late"
    await deployer.settle(3, "fraud-late")
    assert (await deployer.route("fraud-late")).aliases == ("fraud",)


async def test_two_deletions_at_once_leave_the_alias_to_who_stays(deployer: Deployer) -> None:
    await deployer.deploy()
    for name in ("fraud-second", "fraud-third"):
        deployer.clock.advance(1.0)
        await deployer.deploy(deployment_id=name)
    await asyncio.gather(
        *(deployer.deployments.delete(deployer.call(), name) for name in ("fraud-prod", "fraud-second"))
    )
    assert (await deployer.get("fraud")).id == "fraud-third"


async def test_a_corrupt_candidate_fails_and_the_old_revision_serves_on(deployer: Deployer) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    deployer.machine.broken["1.1.0"] = ("corrupt_model", True)
    await deployer.deploy("1.1.0", canary_bp=5000)
    await deployer.settle(6)
    deployment = await deployer.get()
    assert deployment.candidate_revision.phase == "failed"  # type: ignore[union-attr]
    assert [each.id for each in (await deployer.route()).revisions] == ["fraud-prod.1"]
    assert (await announced(deployer))[-1]["error_code"] == "corrupt_model"
    assert await deployer.deploy("1.2.0") == "fraud-prod.3"


async def test_a_dead_replica_comes_back_under_a_new_address(deployer: Deployer) -> None:
    await deployer.deploy(replicas=2)
    await deployer.settle(3)
    before = await deployer.route()
    victim = before.revisions[0].replicas[0]
    del deployer.machine.processes[victim.id]
    await deployer.reconciler.pass_once(deployer.workspace, "fraud-prod")
    assert len((await deployer.route()).revisions[0].replicas) == 1
    await deployer.settle(4)
    after = await deployer.route()
    again = next(each for each in after.revisions[0].replicas if each.id == victim.id)
    assert again.address != victim.address
    assert (await announced(deployer))[-1]["restarts"] == 1


async def test_the_same_request_id_gives_the_same_answer_and_asks_nobody(deployer: Deployer) -> None:
    call = deployer.call("r1", "same")
    first = await deployer.deployments.deploy(call, Order("fraud", "production", "1.0.0"))
    asked = deployer.models.asked
    assert await deployer.deployments.deploy(call, Order("fraud", "production", "1.0.0")) == first
    assert deployer.models.asked == asked
    with pytest.raises(AlreadyExists) as error:
        await deployer.deployments.deploy(deployer.call("r1", "other"), Order("fraud", "production", "1.1.0"))
    assert error.value.code == "request_id_reused"


async def test_the_same_request_at_once_is_done_once(deployer: Deployer) -> None:
    call = deployer.call("r1", "same")
    order = Order("fraud", "production", "1.0.0")
    answers = await asyncio.gather(*(deployer.deployments.deploy(call, order) for _ in range(5)))
    assert len(set(answers)) == 1
    assert len((await deployer.get()).revisions) == 1


async def test_a_refused_request_leaves_its_id_free(deployer: Deployer) -> None:
    call = deployer.call("r1", "same")
    with pytest.raises(NotFound):
        await deployer.deployments.set_weight(call, "fraud-prod", 100)
    await deployer.deploy()
    await deployer.settle(3)
    await deployer.deploy("1.1.0")
    await deployer.settle(3)
    assert (await deployer.deployments.set_weight(call, "fraud-prod", 100)).route_version == 4


async def test_environments(deployer: Deployer) -> None:
    again = await deployer.deployments.create_environment(deployer.call(), "production", "local")
    assert again.created_by == "ann"
    with pytest.raises(Unsupported) as error:
        await deployer.deployments.create_environment(deployer.call(), "cluster", "kubernetes")
    assert error.value.code == "environment_type_unsupported"
    with pytest.raises(Invalid):
        await deployer.deployments.create_environment(deployer.call(), "Bad Name", "local")
    with pytest.raises(NotFound) as missing:
        await deployer.deployments.deploy(deployer.call(), Order("fraud", "nowhere", "1.0.0"))
    assert missing.value.code == "environment_not_found"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"replicas": 3}, "replicas_differ"),
        ({"hash_field": "other"}, "hash_field_differs"),
    ],
)
async def test_what_contradicts_an_existing_deployment_is_refused(
    deployer: Deployer, changes: dict[str, object], code: str
) -> None:
    await deployer.deploy(replicas=1)
    with pytest.raises(Refused) as error:
        await deployer.deploy("1.1.0", **changes)
    assert error.value.code == code


async def test_a_canary_share_for_a_new_deployment_is_refused(deployer: Deployer) -> None:
    with pytest.raises(Invalid) as error:
        await deployer.deploy(canary_bp=100)
    assert error.value.code == "canary_without_stable"


async def test_another_workspace_sees_nothing(deployer: Deployer) -> None:
    await deployer.deploy()
    with pytest.raises(NotFound):
        await deployer.queries.deployment("elsewhere", "fraud-prod")
    with pytest.raises(NotFound):
        await deployer.deployments.set_weight(Call("elsewhere", "ann"), "fraud-prod", 1)


async def test_pages_of_deployments(deployer: Deployer) -> None:
    for name in ("a", "b", "c"):
        await deployer.deployments.deploy(
            deployer.call(), Order("fraud", "production", "1.0.0", deployment_id=name)
        )
    first = await deployer.queries.deployments(deployer.workspace, "", 2, "")
    assert ([each.id for each in first.items], first.last) == (["a", "b"], "b")
    second = await deployer.queries.deployments(deployer.workspace, "b", 2, "production")
    assert ([each.id for each in second.items], second.last) == (["c"], "")
    assert not (await deployer.queries.deployments(deployer.workspace, "", 2, "staging")).items


async def test_waiting_says_which_gateway_is_behind(deployer: Deployer) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    await deployer.deploy("1.1.0")
    await deployer.settle(3)
    deployer.gateways.held.add("g1")
    answer = await deployer.deployments.set_weight(deployer.call(), "fraud-prod", 100)
    await deployer.gateways.follow()
    key = f"{deployer.workspace}/fraud-prod"
    with pytest.raises(DeadlineExceeded, match="gateway g1") as error:
        await deployer.queries.wait(key, answer.route_version, 0.1)
    assert error.value.code == "not_acknowledged"
    assert deployer.queries.acknowledged(await deployer.get()) == answer.route_version - 1
    deployer.gateways.held.clear()
    await deployer.gateways.follow()
    await deployer.queries.wait(key, answer.route_version, 5.0)
    assert deployer.queries.acknowledged(await deployer.get()) == answer.route_version


async def test_columns_grow_with_a_vouched_candidate(deployer: Deployer) -> None:
    deployer.models.versions["2.0.0"] = model("2.0.0", schema("a", "b", "wind"))
    await deployer.deploy()
    await deployer.settle(3)
    with pytest.raises(Refused, match="wind"):
        await deployer.deploy("2.0.0")
    await deployer.deploy("2.0.0", is_vouched=True)
    await deployer.settle(3)
    columns = (await deployer.route()).endpoint_schema.columns
    assert [(each.name, each.required) for each in columns] == [("a", True), ("b", True), ("wind", True)]


async def test_arms_of_another_deployment_are_routed_and_kept_until_every_route_is_drained(
    deployer: Deployer,
) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    other = Order("fraud", "production", "1.1.0", deployment_id="other", replicas=2)
    await deployer.deployments.deploy(deployer.call(), other)
    await deployer.settle(3, "other")
    key = f"{deployer.workspace}/fraud-prod"
    deployer.experiments.uses = {"other.1": "exp-1"}
    deployer.experiments.routed = {key: ("other.1", "fraud-prod.1")}
    await deployer.settle(2)
    route = await deployer.route()
    assert [len(each.replicas) for each in route.revisions] == [1, 2]
    with pytest.raises(Refused, match="exp-1"):
        await deployer.deployments.delete(deployer.call(), "other")
    # One of the other's replicas goes: first out of both routes, both acknowledged, then it is told.
    await deployer.deployments.scale(deployer.call(), "other", 1)
    await deployer.settle(4, "other")
    assert deployer.machine.drains == []
    await deployer.settle(2)
    assert [len(each.replicas) for each in (await deployer.route()).revisions] == [1, 1]
    await deployer.settle(3, "other")
    assert len(deployer.machine.drains) == 1


async def test_while_experiments_are_unknown_nothing_is_decided_and_arms_stay(deployer: Deployer) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    await deployer.deployments.deploy(
        deployer.call(), Order("fraud", "production", "1.1.0", deployment_id="other")
    )
    await deployer.settle(3, "other")
    deployer.experiments.uses = {"other.1": "exp-1"}
    deployer.experiments.routed = {f"{deployer.workspace}/fraud-prod": ("other.1",)}
    await deployer.settle(2)
    before = await deployer.route()
    deployer.experiments.uses = None
    await deployer.settle(3)
    assert await deployer.route() == before
    with pytest.raises(Unavailable):
        await deployer.deployments.delete(deployer.call(), "fraud-prod")
    assert (await deployer.deployments.scale(deployer.call(), "fraud-prod", 2)).deployment_id == "fraud-prod"


async def test_a_route_that_kafka_has_lost_is_published_again(deployer: Deployer) -> None:
    await deployer.deploy()
    await deployer.reconciler.pass_once(deployer.workspace, "fraud-prod")
    key = f"{deployer.workspace}/fraud-prod".encode()
    count = "SELECT count(*) FROM outbox WHERE topic = 'phantom.routes.v1' AND key = $1"
    deployer.clock.advance(60)
    await deployer.reconciler.pass_once(deployer.workspace, "fraud-prod")
    assert await deployer.database.fetchval(count, key) == 1  # it is still on its way
    async with deployer.database.transaction() as tx:
        await tx.execute("DELETE FROM outbox WHERE key = $1", key)
    await deployer.reconciler.pass_once(deployer.workspace, "fraud-prod")
    assert await deployer.database.fetchval(count, key) == 1
    async with deployer.database.transaction() as tx:
        await tx.execute("DELETE FROM outbox WHERE key = $1", key)
    await deployer.gateways.follow()  # it is in Kafka
    await deployer.reconciler.pass_once(deployer.workspace, "fraud-prod")
    assert await deployer.database.fetchval(count, key) == 0
    assert (await deployer.route()).version == 1


# -- killed anywhere -------------------------------------------------------------------------------------------------


async def _story(deployer: Deployer) -> None:
    """A rollout from nothing to the end, each part settled before the next."""
    await deployer.deploy(replicas=2)
    await _settle_through(deployer)
    await deployer.deploy("1.1.0", canary_bp=2500)
    await _settle_through(deployer)
    await deployer.deployments.complete(deployer.call(), "fraud-prod")
    await _settle_through(deployer)
    await deployer.deployments.scale(deployer.call(), "fraud-prod", 1)
    await _settle_through(deployer)


async def _settle_through(deployer: Deployer) -> None:
    for _ in range(3):
        try:
            await deployer.settle(8)
        except Killed:
            deployer.restart()
            deployer.clock.advance(6)  # what was spawned or not shows itself


async def test_killed_at_any_step_a_fresh_deployer_converges(deployer: Deployer) -> None:
    database, clock = deployer.database, deployer.clock
    saboteur = Saboteur()
    deployer.restart(saboteur)
    await _story(deployer)
    assert saboteur.steps > 40
    expected = Counter(str(each["_type"]) for each in await announced(deployer))
    # The first steps one by one, then some of each part of the story.
    steps = [*range(1, 25), *range(25, saboteur.steps + 1, max(1, saboteur.steps // 40))]
    for at in steps:
        other = Deployer(database, clock)
        await other.environment()
        other.gateways.join("g1")
        other.machine.on_drain = lambda replica_id, revision, other=other: _check_free(other, replica_id)  # type: ignore[misc]
        other.restart(Saboteur(at))
        await _story(other)
        deployment = await other.get()
        assert deployment.stable == "fraud-prod.2", at
        assert [each.phase for each in deployment.processes] == ["ready"], at
        assert list(other.machine.processes) == [deployment.processes[0].id], at
        route = await other.route()
        assert [r.id for each in route.revisions for r in each.replicas] == list(other.machine.processes), at
        happened = Counter(str(each["_type"]) for each in await announced(other))
        happened.pop("ReplicaRestarted", None)  # a launch that was lost is made again
        assert happened == expected, at


def _check_free(deployer: Deployer, replica_id: str) -> None:
    """No gateway may still use it: it has drained what it is asked for."""
    drained = deployer.gateways.drained["g1"].get(f"{deployer.workspace}/fraud-prod", 0)
    assert drained == deployer.acks.confirmed(f"{deployer.workspace}/fraud-prod")
    assert replica_id in deployer.machine.processes


async def test_a_deployer_that_restarts_adopts_what_runs(deployer: Deployer) -> None:
    await deployer.deploy(replicas=2)
    await deployer.settle(3)
    before, launches = await deployer.route(), deployer.machine.launches
    deployer.restart()
    deployer.clock.advance(600)
    await deployer.settle(3)
    assert await deployer.route() == before
    assert deployer.machine.launches == launches


async def test_after_a_restart_it_is_ready_once_it_knows_which_replicas_are_gone(deployer: Deployer) -> None:
    await deployer.deploy(replicas=2)
    await deployer.settle()
    before = {each.launch_id for each in (await deployer.get()).processes if each.phase == "ready"}
    assert len(before) == 2
    deployer.machine.processes.clear()  # the machine was off
    deployer.restart()
    assert not deployer.reconciler.has_looked
    task = asyncio.create_task(deployer.reconciler.run())
    try:
        await until(lambda: deployer.reconciler.has_looked)
        found = await deployer.get()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not before & {each.launch_id for each in found.processes if each.phase == "ready"}


async def test_two_deployers_do_not_work_on_one_deployment_at_once(deployer: Deployer) -> None:
    await deployer.deploy()
    async with deployer.store.lease(f"{deployer.workspace}/fraud-prod") as is_ours:
        assert is_ours
        await deployer.reconciler.pass_once(deployer.workspace, "fraud-prod")
        assert deployer.machine.launches == 0
    await deployer.reconciler.pass_once(deployer.workspace, "fraud-prod")
    assert deployer.machine.launches == 1


async def test_a_stranger_is_dismissed_and_a_known_replica_is_not(deployer: Deployer) -> None:
    await deployer.deploy()
    await deployer.settle(3)
    known = dict(deployer.machine.processes)
    deployer.machine.processes["stranger"] = next(iter(known.values()))
    await deployer.reconciler.sweep()
    assert deployer.machine.processes == known


async def test_gateways_and_offsets_are_kept_together(deployer: Deployer) -> None:
    seen = KnownGateway(f"{deployer.workspace}-g", deployer.clock.now())
    async with deployer.store.transaction() as work:
        await work.save_gateways([seen], [], {0: 12, 3: 4})
    assert seen in await deployer.store.reads.gateways()
    assert await deployer.store.reads.ack_offsets() == {0: 12, 3: 4}
    async with deployer.store.transaction() as work:
        await work.save_gateways([], [seen.boot_id], {0: 13})
    assert seen not in await deployer.store.reads.gateways()
    assert (await deployer.store.reads.ack_offsets())[0] == 13
