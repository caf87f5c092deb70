"""Pipelines, executions, approvals and suites as arithmetic."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from phantom_pipelines.domain import approvals, pages
from phantom_pipelines.domain import execution as executions
from phantom_pipelines.domain import pipeline as pipelines
from phantom_pipelines.domain.execution import Action, Execution, Phase, StagePhase
from phantom_pipelines.domain.pipeline import Pipeline, Stage
from phantom_pipelines.domain.suites import Suite, check_suite, meant, same_or_refused
from phantom_pipelines.tests.fakes import version
from phantom_platform.errors import AlreadyExists, Conflict, Invalid, PhantomError, Refused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCAN = {"security_scan": True}
GATED = {**SCAN, "approval_required": True, "approval_timeout": 60}


def pipeline(*stages: Stage) -> Pipeline:
    return Pipeline("p", "line", "", stages, NOW, "ada")


def begun(*configs: dict[str, object]) -> Execution:
    stages = [Stage(f"s{i}", "validation", config) for i, config in enumerate(configs)]
    execution = executions.begin(
        pipeline(*stages),
        version(),
        workspace="default",
        execution_id="e",
        by="ada",
        trigger="manual",
        now=NOW,
    )
    return executions.advance(execution, NOW)


def ended(execution: Execution, name: str, ok: bool = True) -> Execution:
    taken = executions.take(execution, name)
    return executions.finish(taken, name, 1, ok=ok, reason_code="", reason="", result={}, now=NOW)


def phases(execution: Execution) -> list[str]:
    return [execution.phase, *(each.phase for each in execution.stages)]


def test_an_execution_goes_stage_by_stage() -> None:
    execution = begun(SCAN, SCAN)
    assert phases(execution) == ["running", "running", "pending"]
    assert executions.action(execution) == Action("run", "s0")
    execution = ended(execution, "s0")
    assert phases(execution) == ["running", "succeeded", "running"]
    assert execution.progress == 50
    execution = ended(execution, "s1")
    assert phases(execution) == ["succeeded", "succeeded", "succeeded"]
    assert (execution.progress, execution.current_stage) == (100, "s1")
    assert executions.action(execution) is None


def test_advancing_what_waits_or_has_ended_changes_nothing() -> None:
    for execution in (begun(GATED), ended(begun(SCAN), "s0"), begun(SCAN)):
        assert executions.advance(execution, NOW) == execution


def test_an_approval_comes_before_the_stage_begins() -> None:
    execution = begun(GATED, SCAN)
    assert phases(execution) == ["waiting_for_approval", "waiting_for_approval", "pending"]
    assert executions.action(execution) is None
    assert execution.waits_until == NOW + timedelta(seconds=60)
    approved = approvals.decide(execution, "", approve=True, actor="bob", comment="", now=NOW)
    assert phases(approved) == ["running", "running", "pending"]
    assert approved.waits_until is None


@pytest.mark.parametrize(
    ("actor", "approve", "after_s", "code"),
    [
        ("ada", True, 0, "requester_cannot_approve"),
        ("ada", False, 0, "requester_cannot_approve"),
        ("bob", True, 60, "approval_expired"),
        ("bob", False, 61, "approval_expired"),
    ],
)
def test_who_may_decide_and_until_when(actor: str, approve: bool, after_s: int, code: str) -> None:
    with pytest.raises(PhantomError) as caught:
        approvals.decide(
            begun(GATED), "", approve=approve, actor=actor, comment="", now=NOW + timedelta(seconds=after_s)
        )
    assert caught.value.code == code


def test_an_expired_approval_fails_the_execution_when_it_is_looked_at() -> None:
    execution = executions.advance(begun(GATED, SCAN), NOW + timedelta(seconds=60))
    assert phases(execution) == ["failed", "failed", "skipped"]
    assert execution.reason_code == "approval_expired"


@pytest.mark.parametrize(
    ("execution", "then"),
    [
        (begun(GATED, SCAN), ["cancelled", "cancelled", "skipped"]),
        (begun(SCAN, SCAN), ["cancelling", "running", "pending"]),
        (ended(begun(SCAN, GATED), "s0"), ["cancelled", "succeeded", "cancelled"]),
    ],
)
def test_cancelling_waits_only_for_what_runs(execution: Execution, then: list[str]) -> None:
    assert phases(executions.cancel(execution, "bob", "", NOW)) == then


def test_what_ran_is_undone_before_it_is_cancelled() -> None:
    execution = executions.cancel(begun(SCAN, SCAN), "bob", "why not", NOW)
    assert executions.action(execution) == Action("undo", "s0")
    taken = executions.take(execution, "s0")
    done = executions.undone(taken, "s0", 1, "rolled back", NOW)
    assert phases(done) == ["cancelled", "cancelled", "skipped"]
    assert (done.reason, done.stages[0].reason) == ("cancelled by bob: why not", "rolled back")


@pytest.mark.parametrize("ok", [True, False])
def test_a_stage_that_ends_while_it_is_cancelled_keeps_its_own_end(ok: bool) -> None:
    execution = executions.cancel(begun(SCAN, SCAN), "bob", "", NOW)
    done = ended(execution, "s0", ok)
    assert phases(done) == ["cancelled", "succeeded" if ok else "failed", "skipped"]


def test_only_the_newest_attempt_can_end_a_stage() -> None:
    execution = executions.take(executions.take(begun(SCAN), "s0"), "s0")
    with pytest.raises(Conflict):
        executions.finish(execution, "s0", 1, ok=True, reason_code="", reason="", result={}, now=NOW)
    assert executions.check_attempt(execution, "s0", 2).phase == StagePhase.RUNNING


def test_a_stage_that_an_older_release_accepted_fails_by_name() -> None:
    execution = begun(SCAN, SCAN)
    old = execution.with_stage(replace(execution.stages[1], config={"once_known": 1}))
    done = ended(old, "s0")
    assert (done.phase, done.reason_code) == (Phase.FAILED, "invalid_stage")
    assert "once_known" in done.reason


def test_ended_executions_are_not_cancelled() -> None:
    with pytest.raises(Refused) as caught:
        executions.cancel(ended(begun(SCAN), "s0"), "bob", "", NOW)
    assert caught.value.code == "execution_ended"


def test_stages_have_names_of_their_own_and_an_end() -> None:
    line = pipelines.add_stage(pipeline(), Stage("a", "validation", SCAN))
    assert (line.version, [each.name for each in line.stages]) == (2, ["a"])
    with pytest.raises(AlreadyExists):
        pipelines.add_stage(line, Stage("a", "validation", SCAN))
    with pytest.raises(Invalid, match=r"stage\.name"):
        pipelines.add_stage(line, Stage("a b", "validation", SCAN))
    full = replace(line, stages=tuple(Stage(f"s{i}", "validation", SCAN) for i in range(50)))
    with pytest.raises(PhantomError) as caught:
        pipelines.add_stage(full, Stage("one-more", "validation", SCAN))
    assert caught.value.code == "too_many_stages"


def test_a_testing_stage_needs_somewhere_to_test() -> None:
    tests = Stage("t", "testing", {"test_suite": "x"})
    with pytest.raises(Invalid, match="no deployment stage before"):
        pipelines.add_stage(pipeline(), tests)
    compared = {"test_suite": "x", "environment": "a", "success_criteria": {"performance_degradation": 0.1}}
    with pytest.raises(Invalid, match="performance_degradation"):
        pipelines.add_stage(pipeline(), Stage("t", "testing", compared))
    deploys = pipelines.add_stage(pipeline(), Stage("d", "deployment", {"environment": "a"}))
    for config in ({"test_suite": "x"}, compared):
        assert len(pipelines.add_stage(deploys, Stage("t", "testing", config)).stages) == 2


def suite(name: str = "smoke_tests", **fields: object) -> Suite:
    return Suite(**{"name": name, "dataset": "cases", "created_at": NOW, "created_by": "ada", **fields})


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("smoke", ["smoke_tests"], "smoke_tests"),
        ("smoke_tests", ["smoke"], "smoke"),
        ("smoke", ["smoke", "smoke_tests"], "smoke"),
        ("smoke_tests", ["smoke", "smoke_tests"], "smoke_tests"),
        ("smok", ["smoke"], None),
        ("_tests", ["x"], None),
    ],
)
def test_a_suites_ending_may_be_left_out_or_added(asked: str, there: list[str], found: str | None) -> None:
    got = meant(asked, [suite(name) for name in there])
    assert (got.name if got else None) == found


def test_a_suite_given_again_is_the_same_or_refused() -> None:
    later = suite(created_at=NOW + timedelta(days=1), created_by="bob")
    assert same_or_refused(suite(), later) == suite()
    with pytest.raises(AlreadyExists, match="other content"):
        same_or_refused(suite(), suite(tolerance=0.5))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "a b"}, "suite.name"),
        ({"dataset": ""}, "suite.dataset"),
        ({"tolerance": -1.0}, "suite.tolerance"),
        ({"tolerance": float("nan")}, "suite.tolerance"),
        ({"max_cases": -1}, "suite.max_cases"),
        ({"id_column": "x" * 201}, "suite.id_column"),
        ({"description": "x" * 10_001}, "suite.description"),
    ],
)
def test_what_is_wrong_with_a_suite_is_named(fields: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_suite(suite(**fields))
    assert [each.field for each in caught.value.violations] == [field]


@pytest.mark.parametrize("token", ["x", "é", "W10=", "WzEsICJ4Il0="])
def test_a_page_token_that_was_not_given_out_is_refused(token: str) -> None:
    with pytest.raises(Invalid):
        pages.page(0, token, "executions")
    assert pages.page(0, pages.token(7, "executions"), "executions").before == 7
