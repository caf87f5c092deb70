from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phantom_deployer.domain import facts, rollout
from phantom_deployer.domain.acknowledgement import Acknowledgements, Progress
from phantom_deployer.domain.deployment import Deployment
from phantom_deployer.domain.reconcile import Observation, Policy, Surroundings, step
from phantom_deployer.domain.routing import desired_route
from phantom_deployer.tests.builders import START, World, created, mint, model
from phantom_platform.errors import PhantomError


def kinds(world: World) -> list[str]:
    return [type(each).__name__ for each in world.facts]


def test_a_new_deployment_gets_its_replicas_and_launches_each_once() -> None:
    world = World(created(replicas=2))
    first = world.step()
    assert [each.kind for each in first.effects] == ["launch", "launch"]
    assert len({each.replica.launch_id for each in first.effects}) == 2
    assert world.step().effects == ()


def test_a_revision_is_ready_once_all_its_replicas_are() -> None:
    world = World(created(replicas=2))
    world.step()
    world.runs(world.replica(0), port=1)
    world.step()
    assert world.deployment.revisions[0].phase == "pending"
    assert desired_route(world.deployment) is None
    world.runs(world.replica(1), port=2)
    world.step()
    route = desired_route(world.deployment)
    assert route is not None
    assert {each.address for each in route.revisions[0].replicas} == {"127.0.0.1:1", "127.0.0.1:2"}
    assert kinds(world) == ["BecameReady"]


def test_a_candidate_gets_its_share_once_it_is_ready() -> None:
    world = World(created())
    world.until_ready()
    world.deployment, _ = rollout.add_revision(
        world.deployment, model("1.1.0"), bp=1000, vouched=False, entropy="s", used={}
    )
    world.step()
    assert world.deployment.candidate_bp == 0
    world.until_ready()
    assert world.deployment.candidate_bp == 1000
    assert kinds(world) == ["BecameReady", "BecameReady", "WeightSet"]


def test_a_dead_replica_leaves_the_route_waits_and_starts_again_counted() -> None:
    world = World(created())
    world.until_ready()
    world.died(world.replica())
    died = world.step()
    assert world.replica().phase == "restarting"
    assert died.effects == ()
    route = desired_route(world.deployment)
    assert route is not None
    assert route.replica_ids == frozenset()
    world.advance(1)
    again = world.step()
    assert [each.kind for each in again.effects] == ["launch"]
    assert world.replica().restarts == 1
    assert kinds(world)[-1] == "Restarted"
    assert world.step().effects == ()
    world.runs(world.replica(), port=9)
    world.step()
    route = desired_route(world.deployment)
    assert route is not None
    assert route.revisions[0].replicas[0].address == "127.0.0.1:9"


def test_back_off_doubles_up_to_its_limit_and_starts_over_after_a_steady_time() -> None:
    policy = Policy()
    assert [policy.backoff(n).total_seconds() for n in (1, 2, 3, 4, 7, 50)] == [0.5, 1, 2, 4, 30, 30]
    world = World(created())
    world.until_ready()
    for expected in (1, 2, 3):
        world.died(world.replica())
        world.step()
        assert world.replica().failures == expected
        world.advance(31)
        world.step()
        world.runs(world.replica())
        world.step()
    world.advance(61)
    world.died(world.replica())
    world.step()
    assert world.replica().failures == 1


def test_a_corrupt_model_stops_the_rollout_after_two_starts_and_the_old_revision_serves_on() -> None:
    world = World(created())
    world.until_ready()
    world.deployment, _ = rollout.add_revision(
        world.deployment, model("1.1.0"), bp=5000, vouched=False, entropy="s", used={}
    )
    world.step()
    for _ in range(2):
        candidate = world.deployment.replicas_of("fraud-prod.2")[0]
        world.died(candidate, error_code="corrupt_model", error_message="not a model", is_permanent=True)
        world.step()
        world.advance(5)
        world.step()
    failed = [each for each in world.facts if isinstance(each, facts.Failed)]
    assert [each.error_code for each in failed] == ["corrupt_model"]
    assert world.deployment.candidate_revision.phase == "failed"  # type: ignore[union-attr]
    assert world.deployment.candidate_bp == 0
    world.step()
    assert world.deployment.replicas_of("fraud-prod.2") == ()
    route = desired_route(world.deployment)
    assert route is not None
    assert [each.revision.id for each in route.revisions] == ["fraud-prod.1"]


def test_a_revision_that_was_ready_is_never_given_up() -> None:
    world = World(created())
    world.until_ready()
    for _ in range(20):
        world.died(world.replica(), error_code="corrupt_model", is_permanent=True)
        world.step()
        world.advance(31)
        world.step()
    assert world.replica().phase == "starting"
    assert world.deployment.revisions[0].phase == "ready"


def test_a_process_that_another_deployer_spawned_gets_time_to_take_its_lock() -> None:
    world = World(created())
    world.step()
    unlocked = Observation(world.replica().launch_id, is_running=False, is_child_alive=None)
    world.observations[world.replica().id] = unlocked
    world.advance(4)
    world.step()
    assert world.replica().phase == "starting"
    world.advance(2)
    world.step()
    assert world.replica().phase == "restarting"


def test_what_was_seen_of_an_earlier_start_means_nothing() -> None:
    world = World(created())
    world.step()
    world.died(replace(world.replica(), launch_id="earlier"))
    world.step()
    assert world.replica().phase == "starting"


def test_a_process_that_does_not_come_up_or_does_not_answer_is_killed() -> None:
    world = World(created())
    world.step()
    loading = Observation(world.replica().launch_id, is_running=True, is_child_alive=True)
    world.observations[world.replica().id] = loading
    world.advance(119)
    assert world.step().effects == ()
    world.advance(2)
    assert [each.kind for each in world.step().effects] == ["kill"]
    world.runs(world.replica())
    world.step()
    world.runs(world.replica(), is_agreeing=False, silent_s=31.0)
    assert [each.kind for each in world.step().effects] == ["kill"]


def test_scaling_down_drains_only_what_is_unrouted_and_acknowledged() -> None:
    world = World(created(replicas=2))
    world.until_ready()
    for each in world.deployment.processes:
        world.deployment = world.deployment.with_process(replace(each, is_routed=True))
    world.deployment, _ = rollout.scale(world.deployment, 1)
    assert world.step().effects == ()
    (leaving,) = [each for each in world.deployment.processes if each.is_leaving]
    assert world.step().effects == ()  # still routed
    leaving = replace(leaving, is_routed=False, departures=(("default/fraud-prod", 2),))
    world.deployment = world.deployment.with_process(leaving)
    world.acknowledged = False
    assert world.step().effects == ()
    world.acknowledged = True
    assert [(each.kind, each.replica.id) for each in world.step().effects] == [("drain", leaving.id)]
    world.runs(leaving, is_draining=True)
    assert world.step().effects == ()
    world.died(leaving)
    assert [each.kind for each in world.step().effects] == ["forget"]
    assert len(world.deployment.processes) == 1


def test_a_replica_that_does_not_end_after_its_drain_is_killed() -> None:
    world = World(created())
    world.until_ready()
    world.deployment, _ = rollout.delete(world.deployment, {})
    world.step()
    world.step()
    world.advance(46)
    assert [each.kind for each in world.step().effects] == ["kill"]


def test_an_old_stable_revision_stays_in_the_route_until_its_replicas_leave() -> None:
    world = World(created())
    world.until_ready()
    world.deployment = _candidate(world.deployment)
    world.until_ready()
    world.deployment, _ = rollout.complete(world.deployment, {})
    completed = desired_route(world.deployment)
    assert completed is not None
    assert completed.arms == {"control": "fraud-prod.2"}
    assert [each.revision.id for each in completed.revisions] == ["fraud-prod.1", "fraud-prod.2"]
    world.step()
    later = desired_route(world.deployment)
    assert later is not None
    assert [each.revision.id for each in later.revisions] == ["fraud-prod.2"]


def test_a_withdrawing_revision_stays_while_an_experiment_uses_it_or_experiments_are_unknown() -> None:
    world = World(created())
    world.until_ready()
    world.deployment = _candidate(world.deployment)
    world.until_ready()
    world.deployment, _ = rollout.complete(world.deployment, {})
    for used in ({"fraud-prod.1": "exp-1"}, None):
        world.used = used
        world.step()
        assert not any(each.is_leaving for each in world.deployment.processes)
    world.used = {}
    world.step()
    assert any(each.is_leaving for each in world.deployment.processes)


def test_deletion_ends_once_every_process_has() -> None:
    world = World(created(replicas=2))
    world.until_ready()
    world.deployment, _ = rollout.delete(world.deployment, {})
    assert desired_route(world.deployment) is None
    assert world.step().effects == ()  # other routes may name them until it is known that they leave
    assert [each.kind for each in world.step().effects] == ["drain", "drain"]
    for replica in world.deployment.processes:
        world.died(replica)
    world.step()
    assert world.deployment.is_deleted
    assert kinds(world)[-2:] == ["Withdrawn", "Deleted"]


def test_a_replica_that_still_loads_is_terminated_when_it_is_not_wanted_any_more() -> None:
    world = World(created())
    world.step()
    world.observations[world.replica().id] = Observation(world.replica().launch_id, is_running=True)
    world.deployment, _ = rollout.delete(world.deployment, {})
    world.step()
    assert [each.kind for each in world.step().effects] == ["terminate"]


def _candidate(deployment: Deployment) -> Deployment:
    return rollout.add_revision(deployment, model("1.1.0"), bp=0, vouched=False, entropy="s", used={})[0]


# -- the rule that must never break, under random histories ----------------------------------------------------------

KEY = "default/fraud-prod"


class Model:
    """The whole protocol in memory: a deployer, its route log, gateways that apply and drain it when they like."""

    def __init__(self) -> None:
        self.deployment = created(replicas=2)
        self.now = START
        self.mint = mint()
        self.log: list[frozenset[str]] = []  # version - 1 → replicas
        self.in_kafka = 0
        self.acks = Acknowledgements()
        # gateway → (applied, drained, what has been sent to the topic but not read)
        self.gateways: dict[str, tuple[int, int]] = {}
        self.clock = 0.0
        # Written to route-acks and not read yet.
        self.partitions: tuple[list[Callable[[], object]], ...] = ([], [])
        self.alive: dict[str, str] = {}  # replica → launch id
        self.draining: set[str] = set()
        self.number = 0

    def deploy(self) -> None:
        self._try(lambda: _candidate(self.deployment))

    def complete(self) -> None:
        self._try(lambda: rollout.complete(self.deployment, {})[0])

    def keep(self) -> None:
        self._try(lambda: rollout.complete(self.deployment, {}, keep=True)[0])

    def switch_back(self) -> None:
        self._try(lambda: rollout.switch_back(self.deployment, "")[0])

    def release(self) -> None:
        self._try(lambda: rollout.release_standby(self.deployment, {})[0])

    def target(self, number: int) -> None:
        self._try(lambda: rollout.set_target(self.deployment, self.deployment.stable, number)[0])
        self._try(lambda: rollout.set_target(self.deployment, self.deployment.candidate, 2 - number)[0])

    def remove(self) -> None:
        self._try(lambda: rollout.roll_back(self.deployment, remove=True, reason="", used={})[0])

    def scale(self, replicas: int) -> None:
        self._try(lambda: rollout.scale(self.deployment, replicas)[0])

    def weight(self) -> None:
        self._try(lambda: rollout.set_weight(self.deployment, 5000)[0])

    def delete(self) -> None:
        self._try(lambda: rollout.delete(self.deployment, {})[0])

    def _try(self, change: object) -> None:
        try:
            self.deployment = change()  # type: ignore[operator]
        except PhantomError:
            return
        self._publish()

    def _publish(self) -> None:
        route = desired_route(self.deployment)
        now = route.replica_ids if route else frozenset()
        before = self.log[-1] if self.log else frozenset()
        if now == before:
            return
        self.log.append(now)
        for replica in self.deployment.processes:
            if replica.id in now:
                noted = replace(replica, is_routed=True, departures=())
                self.deployment = self.deployment.with_process(noted)
            elif replica.id in before:
                noted = replace(replica, is_routed=False, departures=((KEY, len(self.log)),))
                self.deployment = self.deployment.with_process(noted)

    def reconcile(self) -> None:
        observations = {
            each.id: Observation(
                each.launch_id,
                is_running=self.alive.get(each.id) == each.launch_id,
                is_child_alive=self.alive.get(each.id) == each.launch_id,
                is_agreeing=self.alive.get(each.id) == each.launch_id,
                is_draining=each.id in self.draining,
                address=f"{each.id}:{each.launch_id}",
            )
            for each in self.deployment.processes
        }
        around = Surroundings(self.now, observations, self.acks.waiting)
        done = step(self.deployment, around, self.mint, Policy(unresponsive_s=1e9, startup_timeout_s=1e9))
        self.deployment = done.deployment
        self._publish()
        for effect in done.effects:
            if effect.kind == "launch":
                self.alive[effect.replica.id] = effect.replica.launch_id
            elif effect.kind in ("drain", "terminate"):
                self._drained(effect.replica.id)
            assert effect.kind != "kill"

    def _drained(self, replica: str) -> None:
        """The rule: no gateway that is alive may send to a replica that is told to stop."""
        for boot, (_, drained) in self.gateways.items():
            may_use = {each for version in self.log[max(drained, 1) - 1 :] for each in version}
            assert replica not in may_use, f"{boot}, which has drained {drained}, may send to {replica}"
        self.draining.add(replica)

    def relay(self) -> None:
        if self.in_kafka < len(self.log):
            self.in_kafka += 1
            self.acks.confirm(KEY, self.in_kafka, self.clock)

    def join(self) -> None:
        """A gateway reads the routes to their end after its join record is in the topic, before it is ready."""
        self.number += 1
        boot = f"g{self.number}"
        self.write(boot, lambda: self.acks.join(boot))
        self.gateways[boot] = (self.in_kafka, self.in_kafka)

    def apply(self, index: int) -> None:
        boot = self._gateway(index)
        if boot and self.gateways[boot][0] < self.in_kafka:
            applied, drained = self.gateways[boot]
            self.gateways[boot] = (applied + 1, drained)

    def drain(self, index: int) -> None:
        boot = self._gateway(index)
        if boot:
            self.gateways[boot] = (self.gateways[boot][0], self.gateways[boot][0])

    def heartbeat(self, index: int) -> None:
        boot = self._gateway(index)
        if boot:
            applied, drained = self.gateways[boot]
            self.write(boot, lambda: self.acks.heartbeat(boot, {KEY: Progress(applied, drained)}))

    def leave(self, index: int) -> None:
        boot = self._gateway(index)
        if boot:
            del self.gateways[boot]
            self.write(boot, lambda: self.acks.leave(boot))

    def kill_gateway(self, index: int) -> None:
        boot = self._gateway(index)
        if boot:
            del self.gateways[boot]

    def look(self) -> None:
        self.clock += 0.5
        self.read(0)
        self.read(1)
        self.acks.at_end(self.clock)

    def read(self, index: int) -> None:
        """What there is in one partition: a gateway's records are in order, those of two are not."""
        partition = self.partitions[index % 2]
        while partition:
            partition.pop(0)()

    def write(self, boot: str, record: Callable[[], object]) -> None:
        self.partitions[int(boot[1:]) % 2].append(record)

    def outage(self) -> None:
        self.acks.interrupted()
        self.clock += 60

    def kill_replica(self, index: int) -> None:
        if self.alive:
            del self.alive[sorted(self.alive)[index % len(self.alive)]]

    def exits(self) -> None:
        for replica in list(self.draining):
            self.alive.pop(replica, None)

    def _gateway(self, index: int) -> str | None:
        return sorted(self.gateways)[index % len(self.gateways)] if self.gateways else None


PLAIN = (
    "deploy", "complete", "keep", "switch_back", "release", "remove", "weight", "relay", "join", "look", "outage",
    "exits",
)  # fmt: skip
INDEXED = ("read", "apply", "drain", "heartbeat", "leave", "kill_gateway", "kill_replica")
MOVES = st.one_of(
    st.tuples(st.sampled_from(PLAIN), st.just(None)),
    st.tuples(st.sampled_from(INDEXED), st.integers(0, 3)),
    st.tuples(st.just("scale"), st.integers(1, 3)),
    st.tuples(st.just("target"), st.integers(0, 2)),
    st.tuples(st.just("reconcile"), st.just(None)),
    st.tuples(st.just("delete"), st.just(None)),
)


# Gateways that are killed are gone; ones that live send a heartbeat at least each 10 s of reading: a look is 0.5 s,
# so a history of 60 moves cannot make a living one silent for so long without an interruption.
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVES, min_size=10, max_size=60))
def test_no_process_is_told_to_stop_while_a_gateway_may_send_to_it(
    moves: list[tuple[str, int | None]],
) -> None:
    model_ = Model()
    looks = 0
    for name in ("join", "reconcile", "reconcile", "relay", "heartbeat", "look"):
        getattr(model_, name)(*((0,) if name == "heartbeat" else ()))
    for name, argument in moves:
        looks += name == "look"
        if looks == 18:  # 9 s: everybody alive is heard
            looks = 0
            for index in range(len(model_.gateways)):
                model_.heartbeat(index)
        getattr(model_, name)(*(() if argument is None else (argument,)))
        model_.now += timedelta(seconds=1)
        model_.reconcile()
    _settle(model_)


def test_a_gateway_whose_join_is_not_read_yet_keeps_a_replica_from_being_told() -> None:
    model_ = Model()
    for name in (
        "join",
        "reconcile",
        "reconcile",
        "deploy",
        "reconcile",
        "reconcile",
        "relay",
        "relay",
        "look",
    ):
        getattr(model_, name)()
    model_.leave(0)
    model_.look()
    assert not model_.acks.gateways
    model_.join()  # at the version that names both revisions
    for name in ("complete", "reconcile", "relay", "relay", "relay", "reconcile"):
        getattr(model_, name)()
    assert model_.acks.confirmed(KEY) == len(model_.log)
    assert not model_.draining
    model_.look()
    model_.reconcile()
    assert not model_.draining
    model_.apply(0)
    model_.drain(0)
    model_.heartbeat(0)
    model_.look()
    model_.reconcile()
    assert len(model_.draining) == 2


def _settle(model_: Model) -> None:
    """Whatever happened, it converges once everybody is well."""
    for _ in range(60):
        model_.now += Policy().backoff(50)
        model_.exits()
        model_.relay()
        for index in range(len(model_.gateways)):
            model_.apply(index)
            model_.drain(index)
            model_.heartbeat(index)
        model_.look()
        model_.reconcile()
    deployment = model_.deployment
    assert not any(each.phase == "withdrawing" for each in deployment.revisions)
    assert not any(each.is_leaving for each in deployment.processes)
    if not deployment.is_deleted:
        assert not deployment.is_deleting
        stable = deployment.stable_revision
        assert stable is not None
        assert len(deployment.serving(stable.id)) == deployment.wanted(stable)
