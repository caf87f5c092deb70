"""Rollouts under traffic on the real stack: blue-green, replica by replica, shadow, replay, and a bad canary."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xgboost
from faults.traffic import Books, Traffic

from harness import models
from harness.kafka import upstream
from harness.waiting import eventually
from phantom_contracts import topics
from phantom_contracts.events.upstream import OutcomeReported
from phantom_ml_studio import CanaryDeployment, Rollouts
from phantom_ml_studio.errors import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Studio
    from harness.people import People
    from harness.stack import Stack
    from phantom_ml_studio.rollout_values import Rollout

pytestmark = pytest.mark.timeout(300)

UNJUDGED: dict[str, Any] = {"minimum_requests": 20, "quality_margin": False, "compare_latency": False}


@pytest.fixture
def rollouts(people: People) -> Rollouts:
    return Rollouts(people.engineer.client)


def inverted_file(path: Path) -> Path:
    """A booster whose answers are the wrong way round: nothing fails, nothing is slower."""
    features, labels = models.data(2)
    matrix = xgboost.DMatrix(features, label=1 - labels, feature_names=models.FEATURES)
    parameters = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
    xgboost.train(parameters, matrix, num_boost_round=5).save_model(path)
    return path


def books_of(studio: Studio, endpoint: str) -> Books:
    return Books(lambda: studio.stack.kafka, endpoint, studio.deployments, studio.monitoring)


def transitions(rollout: Rollout) -> list[str]:
    return [each.to_state for each in rollout.transitions]


def test_blue_green_switches_in_one_route_version_and_keeps_the_old_colour_warm(
    studio: Studio, rollouts: Rollouts, run_id: str
) -> None:
    made = studio.serve_boosters(f"colours-{run_id}")
    books = books_of(studio, made.id)
    config = {"pause_before_switch": True, "rollback_window_minutes": 0.2, "success_criteria": UNJUDGED}
    with Traffic(studio.stack.grpc, made.id, per_second=80) as traffic:
        begun = rollouts.create(made.model_id, "1.1.0", strategy="blue_green", config=config)
        eventually(lambda: rollouts.get(begun.id).state == "paused", "the warm colour", 60)
        traffic.advance(30)
        assert {call.revision for call in traffic.answered} == {begun.stable}
        with pytest.raises(Refused) as second:
            rollouts.create(made.model_id, "1.1.0", strategy="blue_green")
        assert second.value.code == "rollout_live"
        assert begun.id in second.value.message
        rollouts.resume(begun.id)
        eventually(
            lambda: (
                (deployment := studio.deployments.get(made.id)).stable is not None
                and deployment.stable.revision == begun.candidate
            ),
            "the switch",
        )
        switched = rollouts.get(begun.id)
        assert switched.state == "promoting"
        traffic.advance(50)
        ended = rollouts.wait(begun.id, 120)
        studio.deployments.wait_withdrawn(made.id)
        traffic.advance(30)
    assert ended.state == "succeeded", ended.reason
    # In one version everybody changed: none has answers of both revisions.
    by_version: dict[int, set[str]] = {}
    for call in traffic.answered:
        by_version.setdefault(call.route_version, set()).add(call.revision)
    assert all(len(revisions) == 1 for revisions in by_version.values())
    traffic.assert_unharmed()
    books.check(traffic)
    studio.deployments.delete(made.id)


def test_a_colour_that_is_taken_back_in_its_window_gives_way_to_the_warm_one(
    studio: Studio, rollouts: Rollouts, run_id: str
) -> None:
    made = studio.serve_boosters(f"back-{run_id}")
    config = {"rollback_window_minutes": 5, "success_criteria": UNJUDGED}
    with Traffic(studio.stack.grpc, made.id, per_second=80) as traffic:
        begun = rollouts.create(made.model_id, "1.1.0", strategy="blue_green", config=config)
        eventually(lambda: rollouts.get(begun.id).state == "promoting", "the switch", 60)
        before = studio.deployments.get(made.id).route_version
        rollouts.rollback(begun.id, "second thoughts")
        ended = rollouts.wait(begun.id, 60)
        assert ended.state == "rolled_back", ended.reason
        assert "second thoughts" in ended.reason
        traffic.advance(50)
    after = [call for call in traffic.answered if call.route_version > before]
    assert after
    assert {call.revision for call in after} == {begun.stable}
    traffic.assert_unharmed()
    studio.deployments.delete(made.id)


def test_replica_by_replica_no_call_is_lost(studio: Studio, rollouts: Rollouts, run_id: str) -> None:
    made = studio.serve_boosters(f"rolling-{run_id}", replicas=2)
    books = books_of(studio, made.id)
    config = {
        "max_surge": 1,
        "max_unavailable": 0,
        "rollback_window_minutes": 0,
        "success_criteria": UNJUDGED,
    }
    with Traffic(studio.stack.grpc, made.id, per_second=80) as traffic:
        begun = rollouts.create(made.model_id, "1.1.0", strategy="rolling", config=config)
        shares: set[float] = set()
        for seen in rollouts.watch(begun.id, 120):
            shares.add(seen.current_percentage)
        ended = rollouts.get(begun.id)
        studio.deployments.wait_withdrawn(made.id)
        traffic.advance(30)
    assert ended.state == "succeeded", (ended.reason, transitions(ended))
    done = studio.deployments.get(made.id)
    assert done.stable is not None
    assert (done.stable.revision, len(done.stable.replicas)) == (begun.candidate, 2)
    assert any(0 < share < 100 for share in shares), shares
    traffic.assert_unharmed()
    books.check(traffic)
    studio.deployments.delete(made.id)


def test_a_shadow_answers_copies_that_nobody_sees_and_is_compared(
    studio: Studio, rollouts: Rollouts, run_id: str
) -> None:
    name = f"shadow-{run_id}"
    made = studio.serve(name, models.xgboost_file(studio.file(f"{name}.json"), 1))
    studio.registry.create_version(name, "1.1.0", inverted_file(studio.file(f"{name}-inverted.json")))
    books = books_of(studio, made.id)
    config = {"percentage": 50, "duration_minutes": 0.3, "min_agreement": 0.9}
    with Traffic(studio.stack.grpc, made.id, per_second=80) as traffic:
        begun = rollouts.create(name, "1.1.0", strategy="shadow", config=config)
        ended = rollouts.wait(begun.id, 120)
        traffic.advance(20)
    assert ended.state == "failed", (ended.state, ended.reason)
    report = ended.shadow
    assert report is not None
    assert report.compared > 100
    # The models say the opposite of each other, but near the middle.
    assert report.agreement < 0.2
    assert report.agreement_upper < 0.9
    assert report.distribution_distance > 0.05
    assert {call.revision for call in traffic.answered} == {begun.stable}
    traffic.assert_unharmed()
    books.check(traffic)
    studio.deployments.delete(made.id)


def test_past_requests_are_replayed_before_any_live_one_and_what_disagrees_gets_none(
    studio: Studio, rollouts: Rollouts, run_id: str
) -> None:
    name = f"replay-{run_id}"
    made = studio.serve(name, models.xgboost_file(studio.file(f"{name}.json"), 1))
    studio.registry.create_version(name, "1.1.0", inverted_file(studio.file(f"{name}-inverted.json")))
    config = {
        "rollback_window_minutes": 0,
        "success_criteria": UNJUDGED,
        "replay": {"requests": 200, "max_disagreement": 0.2},
    }
    with Traffic(studio.stack.grpc, made.id, per_second=150) as traffic:
        traffic.advance(250)
        begun = rollouts.create(name, "1.1.0", strategy="blue_green", config=config)
        ended = rollouts.wait(begun.id, 120)
        traffic.advance(20)
    assert ended.state == "failed", (ended.state, ended.reason)
    assert ended.reason_code == "replay_failed"
    report = ended.replay
    assert report is not None
    assert (report.requests, report.failed) == (200, 0)
    assert report.disagreement > 0.8
    assert report.examples
    assert {call.revision for call in traffic.answered} == {begun.stable}
    studio.deployments.delete(made.id)


async def test_a_canary_that_is_wrong_in_silence_is_rolled_back_by_real_outcomes(
    stack: Stack, studio: Studio, people: People, run_id: str
) -> None:
    name = f"silent-{run_id}"
    path = await asyncio.to_thread(models.xgboost_file, studio.file(f"{name}.json"), 1)
    made = await asyncio.to_thread(studio.serve, name, path)
    bad = inverted_file(studio.file(f"{name}-inverted.json"))
    await asyncio.to_thread(studio.registry.create_version, name, "1.1.0", bad)
    canaries = CanaryDeployment(people.engineer.client)
    strategy = {
        "initial_percentage": 40,
        "target_percentage": 100,
        "increment_percentage": 60,
        "increment_interval_minutes": 1,
        "analysis_interval_seconds": 10,
        "success_criteria": {"minimum_requests": 200, "compare_latency": False},
    }
    with Traffic(stack.grpc, made.id, per_second=120) as traffic:
        begun = await asyncio.to_thread(
            canaries.create_deployment,
            model_id=name,
            version="1.1.0",
            environment="production",
            canary_strategy=strategy,
        )
        reporting = asyncio.create_task(_report_outcomes(stack, made.id, traffic))
        ended = await asyncio.to_thread(canaries.wait, begun.id, 150)
        reporting.cancel()
        await asyncio.to_thread(traffic.advance, 100)
    assert ended.state == "rolled_back", (ended.state, ended.reason)
    assert ended.fired_criterion in ("accuracy", "log_loss")
    assert ended.error_rate == 0
    finding = next(f for f in ended.verdict.findings if f.criterion == ended.fired_criterion)
    assert finding.verdict == "fail"
    assert finding.lower is not None
    assert finding.upper is not None
    back = ended.route_version
    assert {call.revision for call in traffic.answered if call.route_version >= back} == {begun.stable}
    taken = np.diff(sorted({call.route_version for call in traffic.answered if call.route_version <= back}))
    assert taken[-1] == 1  # the rollback is the very next version after the one that was judged
    await asyncio.to_thread(studio.deployments.delete, made.id)


async def _report_outcomes(stack: Stack, endpoint: str, traffic: Traffic) -> None:
    """Every answered call's truth: `high` where the amount was above a half."""
    told = 0
    async with upstream(stack.kafka) as other:
        while True:
            calls = list(traffic.calls)
            for call in calls[told:]:
                if not call.error:
                    outcome = OutcomeReported(
                        endpoint=endpoint,
                        prediction_id=call.prediction_id,
                        event_time=datetime.now(UTC),
                        label=traffic.amounts[call.flight] > 0.5,
                    )
                    await other.publish(topics.OUTCOMES, outcome.key, outcome)
            told = len(calls)
            await asyncio.sleep(0.2)
