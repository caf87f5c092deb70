"""Rollouts on a real Postgres: what callers may ask, and what windows lead to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from phantom_contracts.schema import ModelSchema, Outcome
from phantom_deployer.domain.rollouts.spec import CanaryPlan, RolloutSpec, SuccessCriteria, check
from phantom_deployer.service import Evidences
from phantom_deployer.tests.builders import model, schema
from phantom_deployer.tests.hand_monitor import Traffic
from phantom_deployer.tests.rollout_harness import ENDPOINT, RolloutDeployer, canary
from phantom_platform.errors import AlreadyExists, Invalid, NotFound, PhantomError, Refused, Unavailable
from phantom_platform.postgres import Database

pytestmark = pytest.mark.integration


@pytest_asyncio.fixture(loop_scope="session")
async def deployer(database: Database) -> RolloutDeployer:
    return await RolloutDeployer.serving(database)


async def code_of(call: Any) -> str:
    with pytest.raises(PhantomError) as error:
        await call
    return error.value.code


def learning(maturity_s: float) -> ModelSchema:
    """With an outcome."""
    outcome = Outcome(field="actual", mapping={"true": "yes", "false": "no"}, maturity_s=maturity_s)
    return schema().model_copy(update={"outcome": outcome})


# -- what is asked for -----------------------------------------------------------------------------------------------

PLAN = CanaryPlan(1, 100, 5, 60)
BAD_SPECS: dict[str, tuple[RolloutSpec, list[str]]] = {
    "no strategy": (RolloutSpec("none"), ["strategy"]),  # type: ignore[arg-type]
    "no plan": (RolloutSpec("canary"), ["canary"]),
    "another's plan": (RolloutSpec("blue_green", canary=PLAN), ["canary"]),
    "shares": (
        RolloutSpec("canary", canary=CanaryPlan(0, 101, 0.001, 60)),
        ["canary.initial_percentage", "canary.target_percentage", "canary.increment_percentage"],
    ),
    "target below initial": (
        RolloutSpec("canary", canary=CanaryPlan(50, 20, 5, 60)),
        ["canary.initial_percentage"],
    ),
    "no time": (RolloutSpec("canary", canary=replace(PLAN, interval_s=float("nan"))), ["canary.interval_s"]),
    "too fine": (
        RolloutSpec("canary", canary=replace(PLAN, analysis_interval_s=3)),
        ["canary.analysis_interval_s"],
    ),
    "too many steps": (
        RolloutSpec("canary", canary=replace(PLAN, increment_percentage=0.01)),
        ["canary.increment_percentage"],
    ),
    "a pause between steps": (
        RolloutSpec("canary", canary=replace(PLAN, pause_at=(6, 7, 100))),
        ["canary.pause_at", "canary.pause_at"],
    ),
    "criteria": (
        RolloutSpec(
            "canary",
            canary=PLAN,
            criteria=SuccessCriteria(
                error_rate_threshold=1.5,
                latency_p95_threshold_ms=-1,
                minimum_requests=-1,
                max_distribution_distance=2,
                level=0.9,
            ),
        ),
        [
            "criteria.error_rate_threshold",
            "criteria.latency_p95_threshold_ms",
            "criteria.minimum_requests",
            "criteria.max_distribution_distance",
            "criteria.level",
        ],
    ),
    "a tolerance of nothing": (
        canary(criteria=SuccessCriteria(compare_latency=False, latency_tolerance=0.1)),
        ["criteria.latency_tolerance"],
    ),
    "approvers without approval": (canary(approvers=("bob",)), ["approvers"]),
    "times": (
        canary(ready_timeout_s=-1.0, approval_timeout_s=float("inf"), rollback_window_s=1e9),
        ["approval_timeout_s", "ready_timeout_s", "rollback_window_s"],
    ),
    "conflict": (canary(on_conflict="fight"), ["on_conflict"]),
}


@pytest.mark.parametrize("name", BAD_SPECS)
def test_what_cannot_be_honoured_is_refused_naming_every_field(name: str) -> None:
    spec, fields = BAD_SPECS[name]
    with pytest.raises(Invalid) as error:
        check(spec)
    assert error.value.code == "invalid_rollout"
    assert [each.field for each in error.value.violations] == [f"spec.{each}" for each in fields]


async def test_creating_twice_with_one_request_id_is_creating_once(deployer: RolloutDeployer) -> None:
    first = await deployer.create(request_id="once")
    again = await deployer.create(request_id="once")
    assert first.id == again.id
    call = replace(deployer.by("ann", "once"), fingerprint="another")
    with pytest.raises(AlreadyExists):
        await deployer.rollouts.pause(call, first.id)


async def test_what_is_not_there_is_said_by_name(deployer: RolloutDeployer) -> None:
    assert await code_of(deployer.create(version="9.9.9")) == "version_not_found"
    assert await code_of(deployer.create(deployment_id="other")) == "deployment_not_found"
    with pytest.raises(NotFound) as error:
        await deployer.rollouts.get(deployer.workspace, "nothing")
    assert error.value.code == "rollout_not_found"


async def test_a_rollout_needs_a_stable_revision_that_serves(database: Database) -> None:
    deployer = RolloutDeployer(database, database.clock)  # type: ignore[arg-type]
    await deployer.environment()
    await deployer.deploy()
    assert await code_of(deployer.create()) == "stable_not_ready"


async def test_no_rollout_beside_an_experiment(deployer: RolloutDeployer) -> None:
    deployer.experiments.run = {f"{deployer.workspace}/{ENDPOINT}": ("exp-7",)}
    with pytest.raises(Refused) as error:
        await deployer.create()
    assert (error.value.code, error.value.fields["experiment"]) == ("experiment_running", "exp-7")
    deployer.experiments.uses = None
    with pytest.raises(Unavailable):
        await deployer.create()


@pytest.mark.parametrize("code", ["revision_in_experiment", "experiments_unknown"])
async def test_what_keeps_a_rollout_from_going_on_is_told_until_it_goes_on(
    deployer: RolloutDeployer, code: str
) -> None:
    rollout = await deployer.create()
    await deployer.until_state("promoting")
    deployer.experiments.uses = {rollout.stable: "exp-7"} if code == "revision_in_experiment" else None
    with pytest.raises((Refused, Unavailable)) as error:
        await deployer.until_state("succeeded")
    assert error.value.code == code
    (key,) = await deployer.live()
    for _ in range(2):
        await deployer.pilot.look_safely(key)
    reason, _ = await deployer.rollouts.at_present(await deployer.rollout())
    assert f"it cannot go on just now: {code}: " in reason
    assert error.value.message in reason
    deployer.experiments.uses = {}
    ended = await deployer.until_state("succeeded")
    reason, _ = await deployer.rollouts.at_present(ended)
    assert "cannot go on" not in reason
    assert ended.notes == {}


async def test_a_second_rollout_is_refused_or_supersedes_and_never_are_there_two(
    deployer: RolloutDeployer,
) -> None:
    first = await deployer.create()
    await deployer.until_step(0)
    with pytest.raises(Refused) as error:
        await deployer.create(version="1.2.0")
    assert (error.value.code, error.value.fields["rollout_id"]) == ("rollout_live", first.id)
    second = await deployer.create(canary(on_conflict="supersede"), "1.2.0")
    assert (await deployer.rollout(first.id)).state == "superseded"
    assert second.state == "pending"
    deployment = await deployer.get()
    assert (deployment.candidate, deployment.candidate_bp) == (second.candidate, 0)
    assert len(await deployer.live()) == 1
    listed = await deployer.rollouts.list(deployer.workspace, "", 1, ENDPOINT, False)
    assert [each.id for each in listed.items] == [second.id]
    rest = await deployer.rollouts.list(deployer.workspace, listed.last, 5, "fraud", False)
    assert [each.id for each in rest.items] == [first.id]
    await deployer.until_state("succeeded")


async def test_callers_cannot_move_shares_behind_a_rollouts_back(deployer: RolloutDeployer) -> None:
    rollout = await deployer.create()
    deployments, call = deployer.deployments, deployer.call()
    for refused in (
        deployments.set_weight(call, ENDPOINT, 500),
        deployments.complete(call, ENDPOINT),
        deployments.roll_back(call, ENDPOINT, remove=False, reason=""),
        deployer.deploy("1.2.0"),
    ):
        assert await code_of(refused) == "rollout_live"
    await deployments.scale(call, ENDPOINT, 2)
    await deployments.delete(call, ENDPOINT)
    ended = await deployer.rollout(rollout.id)
    assert (ended.state, ended.reason_code) == ("failed", "deployment_deleted")
    assert await deployer.announced_story() == await deployer.story()


# -- what windows lead to --------------------------------------------------------------------------------------------


async def test_a_good_version_takes_over_and_its_figures_are_kept(deployer: RolloutDeployer) -> None:
    deployer.candidate = deployer.stable = Traffic(error_rate=0.01, latency_ms=20)
    await deployer.create()
    ended = await deployer.until_state("succeeded")
    assert [each[0] for each in await deployer.story()] == [
        "pending",
        "progressing",
        "progressing",
        "promoting",
        "succeeded",
    ]
    assert ended.figures.requests >= 640 * 6
    assert ended.figures.error_rate == pytest.approx(0.01, abs=0.003)
    assert ended.figures.latency_p95_ms == pytest.approx(20, rel=0.02)
    assert (await deployer.get()).stable == ended.candidate
    await deployer.settle(6)
    assert [each.id for each in (await deployer.get()).revisions] == [ended.candidate]
    judged = await deployer.rollouts.judgements(ended)
    assert {each.verdict for each in judged} <= {"pass", "not_enough_data"}
    assert len(judged) < 12  # one a change, not one a look


async def test_more_errors_than_the_stable_one_roll_it_back(deployer: RolloutDeployer) -> None:
    deployer.candidate = Traffic(1280, error_rate=0.3)
    await deployer.create()
    ended = await deployer.until_state("rolled_back")
    assert ended.fired == "error_rate"
    assert ended.verdict is not None
    assert ended.verdict.verdict == "fail"
    (finding,) = (each for each in ended.verdict.findings if each.criterion == "error_rate")
    assert finding.candidate == pytest.approx(0.3, abs=0.01)
    assert ended.reason.startswith("error_rate: ")
    back = (await deployer.transitions())[-2]
    assert (back.to_state, back.criterion, back.bp) == ("rolling_back", "error_rate", 1000)
    before = next(each for each in reversed(await deployer.transitions()) if each.to_state == "progressing")
    assert back.route_version == before.route_version + 1
    samples = deployer.registry.get_sample_value("phantom_deployer_rollback_seconds_count")
    assert samples == 1


async def test_a_fixed_threshold_fails_after_so_many_measurements(deployer: RolloutDeployer) -> None:
    """Both are bad, so no comparison can tell."""
    deployer.candidate = deployer.stable = Traffic(1280, error_rate=0.2)
    criteria = SuccessCriteria(error_rate_threshold=0.05, minimum_requests=100)
    await deployer.create(canary(criteria=criteria))
    ended = await deployer.until_state("rolled_back")
    assert ended.fired == "error_rate_threshold"


async def test_windows_of_other_decisions_versions_and_times_do_not_count(deployer: RolloutDeployer) -> None:
    await deployer.create()
    rollout = await deployer.until_step(0)
    span = rollout.span
    assert span is not None
    begin = span.evidence_from
    assert begin is not None
    bad = Traffic(100_000, error_rate=1.0)
    place = {"revision": rollout.candidate, "arm": "candidate"}
    version = span.first_version
    await deployer.monitor.window(bad, **place, route_version=version, start=begin - timedelta(seconds=5))
    await deployer.monitor.window(bad, **place, route_version=version - 1, start=begin)
    await deployer.monitor.window(bad, **place, route_version=version, start=begin, decision="pin")
    await deployer.monitor.window(
        bad, **place, route_version=version, start=begin, state="partial", segment="s"
    )
    await deployer.monitor.window(
        bad, **place, route_version=version, start=begin, segment="old", revision_no=2
    )
    await deployer.monitor.window(
        Traffic(0), **place, route_version=version, start=begin, segment="old", revision_no=3
    )
    await deployer.monitor.window(
        bad, **place, route_version=version, start=begin, segment="old", revision_no=1
    )
    await deployer.until_state("succeeded")


async def test_no_traffic_holds_then_pauses_then_goes_on_by_itself(deployer: RolloutDeployer) -> None:
    deployer.candidate = None
    await deployer.create()
    paused = await deployer.until_state("paused")
    assert paused.reason_code == "no_data"
    deployer.candidate = Traffic(error_rate=0.01)
    await deployer.until_state("succeeded")
    assert ("progressing", "traffic", 1, 1000) in await deployer.story()


async def test_a_monitor_that_is_not_heard_pauses_it_and_it_does_not_guess(deployer: RolloutDeployer) -> None:
    await deployer.create()
    await deployer.until_step(0)
    deployer.is_monitor_silent = True
    paused = await deployer.until_state("paused")
    assert paused.reason_code == "metrics_unavailable"
    assert "30 s" in paused.reason
    share = (await deployer.get()).candidate_bp
    for _ in range(20):
        await deployer.round()
    assert (await deployer.rollout()).state == "paused"
    assert (await deployer.get()).candidate_bp == share
    deployer.is_monitor_silent = False
    await deployer.until_state("succeeded")


async def test_a_gateway_that_is_silent_pauses_it_too(deployer: RolloutDeployer) -> None:
    """The monitor speaks, but knows nothing new."""
    await deployer.create()
    await deployer.until_step(0)
    deployer.is_monitor_silent = True
    stands = deployer.clock.now() - timedelta(seconds=60)
    for _ in range(12):
        await deployer.monitor.closed(stands)
        await deployer.round()
    rollout = await deployer.rollout()
    assert (rollout.state, rollout.reason_code) == ("paused", "metrics_unavailable")
    assert "one of them has said nothing" in rollout.reason


async def test_a_deployer_that_was_away_does_not_take_its_own_absence_for_silence(
    deployer: RolloutDeployer,
) -> None:
    await deployer.create()
    await deployer.until_step(0)
    deployer.clock.advance(3600)
    deployer.restart_pilot()
    await deployer.look()
    assert (await deployer.rollout()).state in ("progressing", "analysing")
    await deployer.until_state("succeeded")
    assert "metrics_unavailable" not in [each[1] for each in await deployer.story()]


async def test_two_deployers_that_look_at_once_do_everything_once(deployer: RolloutDeployer) -> None:
    """Even without the lease that keeps them apart."""
    await deployer.create()
    for _ in range(30):
        keys = await deployer.live()
        if not keys:
            break
        looks = [deployer.piloting.advance(keys[0]) for _ in range(3)]
        await asyncio.gather(*looks)
        await deployer.round()
    assert [each[0] for each in await deployer.story()] == [
        "pending",
        "progressing",
        "progressing",
        "promoting",
        "succeeded",
    ]
    assert await deployer.announced_story() == await deployer.story()


async def test_callers_who_begin_at_once_get_one_rollout(deployer: RolloutDeployer) -> None:
    made = await asyncio.gather(*(deployer.create() for _ in range(3)), return_exceptions=True)
    refusals = [each for each in made if isinstance(each, BaseException)]
    assert len(refusals) == 2
    assert {each.code for each in refusals if isinstance(each, Refused)} == {"rollout_live"}
    assert len(await deployer.live()) == 1


# -- quality ---------------------------------------------------------------------------------------------------------


async def learner(database: Database, maturity_s: float) -> RolloutDeployer:
    made = RolloutDeployer(database, database.clock)  # type: ignore[arg-type]
    for version in ("1.0.0", "1.1.0"):
        made.models.versions[version] = model(version, learning(maturity_s))
    await made.environment()
    made.gateways.join("g1")
    await made.deploy()
    await made.settle(3)
    return made


async def test_worse_log_loss_rolls_it_back_though_errors_and_latency_are_clean(database: Database) -> None:
    deployer = await learner(database, 0)
    deployer.stable = Traffic(2560, accuracy=0.9, log_loss=0.3)
    deployer.candidate = Traffic(2560, accuracy=0.9, log_loss=0.6)
    await deployer.create()
    ended = await deployer.until_state("rolled_back")
    assert ended.fired == "log_loss"
    assert ended.reason.startswith("log_loss: ")
    assert ended.quality_margin == 0.02


async def test_labels_that_mature_after_the_step_still_roll_it_back(database: Database) -> None:
    """Steps do not wait for labels; the old revision stays warm for them."""
    deployer = await learner(database, 60)
    deployer.stable = Traffic(2560, accuracy=0.9, log_loss=0.3)
    deployer.candidate = Traffic(2560, accuracy=0.5, log_loss=0.9)
    rollout = await deployer.create(canary(rollback_window_s=-1.0))
    assert rollout.window_s == 60
    ended = await deployer.until_state("rolled_back")
    assert ended.fired in ("accuracy", "log_loss")
    back = (await deployer.transitions())[-2]
    assert (back.from_state, back.bp) == ("promoting", 10_000)
    assert (await deployer.get()).stable == rollout.stable


async def test_labels_of_earlier_steps_act_while_gateways_have_not_acknowledged_the_present_one(
    database: Database,
) -> None:
    deployer = await learner(database, 0)
    rollout = await deployer.create(canary(10, 55, 100))
    first = (await deployer.until_step(0)).spans[0]
    await deployer.until(lambda each: len(each.spans) == 1 and each.step_ends_at is not None)
    deployer.gateways.held.add("g1")
    stuck = await deployer.until(lambda each: each.step == 1)
    assert stuck.step_ends_at is None
    reason, _ = await deployer.rollouts.at_present(stuck)
    assert "waiting for" in reason
    begin = first.evidence_from
    assert begin is not None
    for revision, arm, log_loss in ((rollout.candidate, "candidate", 2.0), (rollout.stable, "control", 0.3)):
        await deployer.monitor.window(
            Traffic(25_600, accuracy=0.9, log_loss=log_loss),
            revision=revision,
            arm=arm,
            route_version=first.first_version,
            start=begin,
            revision_no=2,
        )
    await deployer.round()
    assert (await deployer.rollout()).state == "rolling_back"
    await deployer.round(0)
    assert (await deployer.rollout()).state == "rolling_back"  # nobody has acknowledged that either
    deployer.gateways.held.clear()
    await deployer.until_state("rolled_back")


async def test_a_margin_for_a_version_without_outcomes_is_refused(deployer: RolloutDeployer) -> None:
    with pytest.raises(Invalid) as error:
        await deployer.create(canary(criteria=SuccessCriteria(quality_margin=0.05)))
    assert error.value.violations[0].field == "spec.criteria.quality_margin"
    off = await deployer.create(canary(criteria=SuccessCriteria(quality_margin=-1.0)))
    assert off.quality_margin is None


async def test_the_present_error_rate_says_how_many_requests_it_takes(deployer: RolloutDeployer) -> None:
    deployer.stable = Traffic(6400, error_rate=0.01)
    for _ in range(3):
        await deployer.round()
    rollout = await deployer.create(canary(criteria=SuccessCriteria(minimum_requests=100)))
    assert rollout.requests_to_detect_doubling == 4500
    assert "100 is below the 4,500" in rollout.warnings[0]


async def test_windows_are_kept_as_long_as_a_rollout_is_judged_by_them(deployer: RolloutDeployer) -> None:
    async def kept() -> int:
        sql = "SELECT count(*) FROM evidence_windows WHERE workspace = $1"
        return int(await deployer.database.fetchval(sql, deployer.workspace))

    await deployer.round()
    await deployer.round()
    await deployer.create()
    await deployer.until_step(0)
    await deployer.until(lambda each: each.step == 1)
    old = await kept()
    await deployer.piloting.forget_windows(deployer.clock.now())
    assert 0 < await kept() < old
    await deployer.until_state("succeeded")
    await deployer.piloting.forget_windows(deployer.clock.now())
    assert await kept() == 0


async def test_final_windows_of_a_long_rollout_become_one_an_hour_with_the_same_sums(
    deployer: RolloutDeployer,
) -> None:
    async def kept() -> int:
        sql = "SELECT count(*) FROM evidence_windows WHERE workspace = $1"
        return int(await deployer.database.fetchval(sql, deployer.workspace))

    await deployer.create(canary(10, 40))
    await deployer.until(lambda each: each.reason_code == "target_reached")
    for _ in range(30):
        await deployer.round()
    (key,) = await deployer.live()
    rollout, before = await deployer.rollout(), await kept()
    known = await deployer.evidences.of(rollout)
    assert await deployer.piloting.fold(deployer.clock, key) == 0  # labels may change them
    deployer.clock.advance(26 * 3600)
    await deployer.monitor.closed(deployer.clock.now())
    await deployer.pilot.fold()
    assert before > 50
    assert await kept() <= 2 * 2 * len(rollout.spans)
    for evidences in (deployer.evidences, Evidences(deployer.store.reads, deployer.clock)):
        folded = await evidences.of(rollout)
        assert folded.figures.requests == known.figures.requests
        assert folded.figures.latency_p95_ms == pytest.approx(known.figures.latency_p95_ms)
        assert known.verdict is not None
        assert folded.verdict is not None
        assert folded.requests == known.requests
        for one, other in zip(folded.verdict.findings, known.verdict.findings, strict=True):
            assert (one.criterion, one.verdict, one.count) == (other.criterion, other.verdict, other.count)
            assert one.estimate == pytest.approx(other.estimate)
    first = rollout.spans[0].evidence_from
    assert first is not None
    place = {"route_version": rollout.spans[0].first_version, "start": first, "revision_no": 9}
    await deployer.monitor.window(Traffic(9000), revision=rollout.candidate, arm="candidate", **place)
    assert (
        await deployer.evidences.of(rollout)
    ).figures.requests == known.figures.requests  # counted already
    assert await deployer.piloting.fold(deployer.clock, key) == 0


async def test_what_was_merged_once_is_what_a_fresh_deployer_merges(deployer: RolloutDeployer) -> None:
    """Late windows, read block by block, end in the sums that a look at everything gives."""
    deployer.candidate = Traffic(700, error_rate=0.02)
    await deployer.create(canary(10, 100, rollback_window_s=60.0))
    await deployer.until_state("promoting")
    for _ in range(4):
        await deployer.round()
    rollout = await deployer.rollout()
    known = await deployer.evidences.of(rollout)
    deployer.restart_pilot()
    fresh = await deployer.evidences.of(rollout)
    assert known.verdict is not None
    assert fresh.verdict is not None
    assert (known.requests, known.figures) == (fresh.requests, fresh.figures)
    assert known.verdict.findings == fresh.verdict.findings
    first = rollout.spans[0].evidence_from
    assert first is not None
    late = Traffic(900, error_rate=0.5)
    await deployer.monitor.window(
        late,
        revision=rollout.candidate,
        arm="candidate",
        route_version=rollout.spans[0].first_version,
        start=first,
        revision_no=9,
    )
    changed = await deployer.evidences.of(rollout)
    deployer.restart_pilot()
    again = await deployer.evidences.of(rollout)
    assert changed.figures == again.figures != known.figures
