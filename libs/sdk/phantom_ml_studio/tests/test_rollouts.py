"""Rollouts: dictionaries become specs or are refused by name; what comes back are values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from phantom.deployer.v1 import rollout_pb2 as messages
from phantom.deployer.v1 import rollout_service_pb2 as rpc
from phantom_ml_studio import CanaryDeployment, Client, Rollouts, waiting
from phantom_ml_studio.errors import Forbidden, Invalid, Refused, TimedOut
from phantom_ml_studio.rollout_spec import _AUTO_ROLLBACK, _CRITERIA, _REPLAY, KEYS, to_spec
from phantom_ml_studio.tests.fake_platform import FakePlatform, Refusal

GUIDES: dict[str, Any] = {
    "initial_percentage": 1,
    "target_percentage": 100,
    "increment_percentage": 5,
    "increment_interval_minutes": 30,
    "success_criteria": {
        "error_rate_threshold": 0.01,
        "latency_p95_threshold": 100,
        "minimum_requests": 1000,
    },
    "auto_rollback": {"enabled": True, "failure_threshold": 3, "rollback_percentage": 0},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to wait for between two questions."""
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    monkeypatch.setattr("phantom_ml_studio.rollouts.POLL_S", 0.01)


def rollout(state: str = "progressing", **more: Any) -> messages.Rollout:
    return messages.Rollout(rollout_id="r-1", deployment_id="m-prod", state=state, **more)


# -- dictionaries --------------------------------------------------------------------


def test_the_guides_strategy_becomes_a_canary() -> None:
    spec = to_spec("canary", GUIDES)
    plan = spec.canary
    assert (plan.initial_percentage, plan.target_percentage, plan.increment_percentage) == (1, 100, 5)
    assert (plan.interval_s, plan.analysis_interval_s, list(plan.pause_at)) == (1800, 0, [])
    assert spec.criteria.error_rate_threshold == 0.01
    assert spec.criteria.latency_p95_threshold_ms == 100
    assert spec.criteria.minimum_requests == 1000
    for name in ("compare_errors", "compare_latency", "compare_rejected", "quality_margin"):
        assert not spec.criteria.HasField(name)
    assert spec.auto_rollback == messages.AutoRollback(enabled=True, failure_threshold=3)
    assert (spec.rollback_window_s, spec.on_conflict, spec.HasField("replay")) == (-1, "refuse", False)


def test_every_other_key_reaches_the_spec() -> None:
    spec = to_spec(
        "canary",
        {
            **GUIDES,
            "increment_interval_minutes": 0.1,
            "success_criteria": {
                "compare_errors": False,
                "compare_latency": True,
                "compare_rejected": False,
                "quality_margin": 0.03,
                "max_distribution_distance": 0.2,
                "level": 0.01,
            },
            "auto_rollback": {"enabled": False, "failure_threshold": 2, "rollback_percentage": 0.5},
            "analysis_interval_seconds": 10,
            "pause_at": [6, 50.25],
            "rollback_window_minutes": 0,
            "replay": {
                "requests": 500,
                "max_disagreement": 0.1,
                "max_distribution_distance": 0.2,
                "max_latency_p95": 50,
                "quality_margin": 0.02,
            },
            "approval_required": True,
            "approvers": ["grace"],
            "approval_timeout_seconds": 60,
            "ready_timeout_seconds": 30,
            "on_conflict": "supersede",
        },
    )
    assert spec.canary.interval_s == pytest.approx(6)
    assert (spec.canary.analysis_interval_s, list(spec.canary.pause_at)) == (10, [6, 50.25])
    criteria = spec.criteria
    assert (criteria.compare_errors, criteria.compare_latency, criteria.compare_rejected) == (
        False,
        True,
        False,
    )
    assert criteria.HasField("compare_errors")
    assert (criteria.quality_margin, criteria.max_distribution_distance, criteria.level) == (0.03, 0.2, 0.01)
    assert spec.auto_rollback == messages.AutoRollback(
        enabled=False, failure_threshold=2, rollback_percentage=0.5
    )
    assert spec.rollback_window_s == 0
    assert (spec.replay.requests, spec.replay.max_disagreement, spec.replay.max_latency_p95_ms) == (
        500,
        0.1,
        50,
    )
    assert (spec.approval_required, list(spec.approvers), spec.approval_timeout_s) == (True, ["grace"], 60)
    assert (spec.ready_timeout_s, spec.on_conflict) == (30, "supersede")


def test_quality_is_not_compared_where_its_margin_is_false() -> None:
    spec = to_spec("canary", {**GUIDES, "success_criteria": {"quality_margin": False}})
    assert spec.criteria.quality_margin == -1


def test_the_other_strategies_have_keys_of_their_own() -> None:
    blue_green = to_spec("blue-green", {"pause_before_switch": True, "rollback_window_minutes": 2})
    assert (blue_green.strategy, blue_green.blue_green.pause_before_switch) == ("blue_green", True)
    assert blue_green.rollback_window_s == 120
    rolling = to_spec("rolling", {"max_unavailable": 1, "max_surge": 2})
    assert (rolling.rolling.max_unavailable, rolling.rolling.max_surge) == (1, 2)
    shadow = to_spec("shadow", {"percentage": 20, "duration_minutes": 0.5, "min_agreement": 0.9})
    assert (shadow.shadow.percentage, shadow.shadow.duration_s, shadow.shadow.min_agreement) == (20, 30, 0.9)
    assert shadow.auto_rollback.enabled


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown key": ({"initial_percentag": 1}, "initial_percentag", "did you mean 'initial_percentage'"),
    "an unknown criterion": (
        {"success_criteria": {"error_rate": 0.1}},
        "success_criteria.error_rate",
        "did you mean 'error_rate_threshold'",
    ),
    "a text for a number": ({"initial_percentage": "5%"}, "initial_percentage", "a number was expected"),
    "a truth for a number": ({"initial_percentage": True}, "initial_percentage", "a number was expected"),
    "not a number": ({"increment_interval_minutes": math.nan}, "increment_interval_minutes", "a number"),
    "a share above all": ({"initial_percentage": 101}, "initial_percentage", "above 0 and at most 100"),
    "too fine a share": ({"initial_percentage": 0.125}, "initial_percentage", "steps of 0.01"),
    "a target below the start": ({"target_percentage": 0.5}, "target_percentage", "below initial_percentage"),
    "no time for a step": ({"increment_interval_minutes": 0}, "increment_interval_minutes", "above 0"),
    "an error rate in percent": (
        {"success_criteria": {"error_rate_threshold": 2}},
        "success_criteria.error_rate_threshold",
        "below 1",
    ),
    "too short a measurement": ({"analysis_interval_seconds": 5}, "analysis_interval_seconds", "at least 10"),
    "too long a window": ({"rollback_window_minutes": 1441}, "rollback_window_minutes", "at most 1440"),
    "half a request": (
        {"success_criteria": {"minimum_requests": 0.5}},
        "success_criteria.minimum_requests",
        "a whole number",
    ),
    "no failure at all": (
        {"auto_rollback": {"failure_threshold": 0}},
        "auto_rollback.failure_threshold",
        "at least 1",
    ),
    "a word for a truth": ({"auto_rollback": {"enabled": "yes"}}, "auto_rollback.enabled", "True or False"),
    "a list for a dictionary": ({"success_criteria": [1]}, "success_criteria", "a dictionary was expected"),
    "a replay of nothing": ({"replay": {}}, "replay.requests", "is missing"),
    "a replay of too much": ({"replay": {"requests": 100_001}}, "replay.requests", "at most 100000"),
    "an unknown conflict": ({"on_conflict": "superseed"}, "on_conflict", "did you mean 'supersede'"),
    "a share to pause at": ({"pause_at": [6, 0]}, "pause_at[1]", "above 0"),
    "approvers of nothing": ({"approvers": ["grace"]}, "approvers", "approval_required"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_refused_by_name_before_anything_is_sent(case: str, platform: FakePlatform) -> None:
    change, field, why = WRONG[case]
    with Client(platform.address, "t") as client, pytest.raises(Invalid) as caught:
        CanaryDeployment(client).create_deployment("m", "2", "production", {**GUIDES, **change})
    assert caught.value.code == "invalid_rollout"
    ((name, what),) = caught.value.violations
    assert name == field
    assert why in what
    assert field in caught.value.message
    assert platform.seen == []


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        to_spec("canary", {"increment": 1})
    assert [name for name, _ in caught.value.violations] == [
        "increment",
        "initial_percentage",
        "increment_percentage",
        "increment_interval_minutes",
    ]


@pytest.mark.parametrize(
    ("strategy", "config", "field"),
    [
        ("canary-ish", {}, "strategy"),
        ("blue_green", {"initial_percentage": 1}, "initial_percentage"),
        ("rolling", {"auto_rollback": {"rollback_percentage": 5}}, "auto_rollback.rollback_percentage"),
        ("shadow", {}, "percentage"),
        ("shadow", {"percentage": 5, "rollback_window_minutes": 1}, "rollback_window_minutes"),
    ],
)
def test_a_strategy_takes_only_its_own_keys(strategy: str, config: Mapping[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        to_spec(strategy, config)
    assert [name for name, _ in caught.value.violations] == [field]


def test_the_readme_lists_every_key() -> None:
    text = Path(__file__).parents[2].joinpath("README.md").read_text()
    groups = (*KEYS.values(), _CRITERIA, _AUTO_ROLLBACK, _REPLAY)
    missing = {key for keys in groups for key in keys if f"`{key}`" not in text}
    assert not missing


# -- what comes back -----------------------------------------------------------------


def test_without_figures_the_guides_comparisons_are_false_and_do_not_fail(platform: FakePlatform) -> None:
    platform.answer("GetRollout", rpc.GetRolloutResponse(rollout=rollout("pending")))
    with Client(platform.address, "t") as client:
        status = CanaryDeployment(client).get_deployment_status("r-1")
    assert (status.phase, status.id) == ("pending", "r-1")
    assert math.isnan(status.error_rate)
    assert not status.error_rate > 0.02
    assert not status.latency_p95 > 100
    assert (status.verdict, status.transitions, status.step_ends_at) == (None, (), None)


def test_a_status_carries_the_verdict_its_intervals_and_the_transitions(platform: FakePlatform) -> None:
    made = rollout(error_rate=0.03, latency_p95_ms=40, requests=1200, fired_criterion="log_loss")
    made.verdict.verdict = "fail"
    made.verdict.findings.add(criterion="log_loss", verdict="fail", estimate=0.2, lower=0.1, limit=0.02)
    made.transitions.add(number=1, to_state="pending", actor="ada").at.FromSeconds(1_700_000_000)
    made.warnings.append("few")
    platform.answer("GetRollout", rpc.GetRolloutResponse(rollout=made))
    with Client(platform.address, "t") as client:
        status = Rollouts(client).get("m-prod")
    assert (status.error_rate, status.latency_p95, status.requests) == (0.03, 40, 1200)
    assert status.verdict is not None
    (finding,) = status.verdict.findings
    assert (finding.lower, finding.upper, finding.limit) == (0.1, None, 0.02)
    assert (status.fired_criterion, status.warnings) == ("log_loss", ("few",))
    assert status.transitions[0].at is not None
    assert status.transitions[0].at.year == 2023


CALLS: dict[str, tuple[Callable[[Rollouts], object], str, dict[str, Any]]] = {
    "promote": (lambda r: r.promote("r-1", 25), "PromoteRollout", {"target_percentage": 25}),
    "rollback": (lambda r: r.rollback("r-1", "bad"), "RollBackRollout", {"reason": "bad"}),
    "pause": (lambda r: r.pause("r-1"), "PauseRollout", {}),
    "resume": (lambda r: r.resume("r-1"), "ResumeRollout", {}),
    "approve": (lambda r: r.approve("r-1", "fine"), "ApproveRollout", {"comment": "fine"}),
    "reject": (lambda r: r.reject("r-1", "no"), "RejectRollout", {"comment": "no"}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_control_sends_what_it_was_given_and_returns_the_rollout(name: str, platform: FakePlatform) -> None:
    call, method, fields = CALLS[name]
    asked: list[Any] = []

    def answer(body: bytes) -> Any:
        asked.append(getattr(rpc, f"{method}Request").FromString(body))
        return getattr(rpc, f"{method}Response")(rollout=rollout("paused"))

    platform.methods[method] = answer
    with Client(platform.address, "t") as client:
        assert call(Rollouts(client)).state == "paused"  # type: ignore[attr-defined]
    (request,) = asked
    assert request.rollout_id == "r-1"
    assert request.request_id
    assert {key: getattr(request, key) for key in fields} == fields


def test_a_promotion_without_a_share_sends_none(platform: FakePlatform) -> None:
    asked: list[rpc.PromoteRolloutRequest] = []

    def answer(body: bytes) -> rpc.PromoteRolloutResponse:
        asked.append(rpc.PromoteRolloutRequest.FromString(body))
        return rpc.PromoteRolloutResponse(rollout=rollout())

    platform.methods["PromoteRollout"] = answer
    with Client(platform.address, "t") as client:
        CanaryDeployment(client).promote("r-1")
    assert not asked[0].HasField("target_percentage")


NOT_READY = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "it is starting", "candidate_not_ready")


def test_a_promotion_waits_for_a_candidate_that_is_starting(platform: FakePlatform) -> None:
    platform.answer(
        "PromoteRollout", NOT_READY, NOT_READY, rpc.PromoteRolloutResponse(rollout=rollout("promoting"))
    )
    platform.answer("GetRollout", rpc.GetRolloutResponse(rollout=rollout("pending")))
    with Client(platform.address, "t") as client:
        assert CanaryDeployment(client).promote("r-1", target_percentage=25).state == "promoting"


@pytest.mark.parametrize(("state", "within_s"), [("pending", -1.0), ("waiting_for_approval", 60.0)])
def test_a_promotion_does_not_wait_for_ever_nor_for_an_approval(
    state: str, within_s: float, platform: FakePlatform
) -> None:
    platform.answer("PromoteRollout", NOT_READY)
    platform.answer("GetRollout", rpc.GetRolloutResponse(rollout=rollout(state)))
    with Client(platform.address, "t") as client, pytest.raises(Refused) as caught:
        Rollouts(client).promote("r-1", ready_within_s=within_s)
    assert caught.value.code == "candidate_not_ready"


EARLY = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "it is pending", "not_waiting_for_approval")


@pytest.mark.parametrize("method", ["ApproveRollout", "RejectRollout"])
def test_a_decision_waits_for_a_candidate_that_is_starting(method: str, platform: FakePlatform) -> None:
    done = getattr(rpc, f"{method}Response")(rollout=rollout("pending"))
    platform.answer(method, EARLY, EARLY, done)
    starting = rollout("pending")
    starting.spec.approval_required = True
    platform.answer("GetRollout", rpc.GetRolloutResponse(rollout=starting))
    with Client(platform.address, "t") as client:
        canary = CanaryDeployment(client)
        decided = canary.approve("r-1") if method == "ApproveRollout" else canary.reject("r-1")
    assert decided.id == "r-1"


@pytest.mark.parametrize("state", ["pending", "progressing"])
def test_a_decision_that_nobody_will_ask_for_is_refused_at_once(state: str, platform: FakePlatform) -> None:
    platform.answer("ApproveRollout", EARLY)
    platform.answer("GetRollout", rpc.GetRolloutResponse(rollout=rollout(state)))
    with Client(platform.address, "t") as client, pytest.raises(Refused) as caught:
        Rollouts(client).approve("r-1")
    assert caught.value.code == "not_waiting_for_approval"


def test_a_wait_tells_each_change_once_and_ends_with_the_rollout(platform: FakePlatform) -> None:
    states = ["pending", "progressing", "progressing", "promoting", "succeeded"]
    platform.answer("GetRollout", *(rpc.GetRolloutResponse(rollout=rollout(s)) for s in states))
    told: list[str] = []
    with Client(platform.address, "t") as client:
        ended = Rollouts(client).wait("r-1", 30, lambda r: told.append(r.state))
    assert (ended.state, ended.has_ended) == ("succeeded", True)
    assert told == ["pending", "progressing", "promoting", "succeeded"]


def test_a_wait_for_a_rollout_that_goes_on_times_out(platform: FakePlatform) -> None:
    platform.answer("GetRollout", rpc.GetRolloutResponse(rollout=rollout()))
    with Client(platform.address, "t") as client, pytest.raises(TimedOut) as caught:
        CanaryDeployment(client).wait("r-1", timeout_s=0)
    assert caught.value.code == "rollout_not_ended"


def test_the_servers_refusals_keep_their_codes(platform: FakePlatform) -> None:
    platform.answer(
        "CreateRollout",
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, "r-0 is live", "rollout_live", {"rollout_id": "r-0"}),
    )
    platform.answer(
        "ApproveRollout", Refusal(grpc.StatusCode.PERMISSION_DENIED, "own", "requester_cannot_approve")
    )
    with Client(platform.address, "t") as client:
        with pytest.raises(Refused) as live:
            Rollouts(client).create("m", "2", strategy="rolling")
        with pytest.raises(Forbidden) as own:
            Rollouts(client).approve("r-1")
    assert (live.value.code, live.value.fields) == ("rollout_live", {"rollout_id": "r-0"})
    assert own.value.code == "requester_cannot_approve"


def test_all_pages_of_rollouts_are_fetched(platform: FakePlatform) -> None:
    asked: list[rpc.ListRolloutsRequest] = []

    def pages(body: bytes) -> rpc.ListRolloutsResponse:
        asked.append(rpc.ListRolloutsRequest.FromString(body))
        return rpc.ListRolloutsResponse(
            rollouts=[rollout()], next_page_token="" if asked[-1].page_token else "1"
        )

    platform.methods["ListRollouts"] = pages
    with Client(platform.address, "t") as client:
        assert len(Rollouts(client).list("m-prod", live_only=True)) == 2
    assert [(r.deployment_id, r.live_only) for r in asked] == [("m-prod", True)] * 2
