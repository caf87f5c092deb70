"""Pin, override, experiment, rollout: in that order, as anyone can recompute it."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom_inference_gateway.domain.routing import (
    Decision,
    ExperimentSpec,
    Plan,
    RevisionSpec,
    RouteSpec,
    Shadow,
    ShadowSpec,
    Unit,
    metadata_key,
    shorten,
)
from phantom_platform.errors import NotFound
from phantom_statistics import assignment
from phantom_statistics.assignment import Allocation

REVISIONS = (RevisionSpec("d.1", "1.0.0"), RevisionSpec("d.2", "1.1.0"), RevisionSpec("d.3", "1.2.0", False))


def spec(**changes):
    values = {
        "version": 7,
        "hash_field": "tail_number",
        "salt": "s1",
        "allocations": (Allocation(0, 2500, "candidate"),),
        "arms": {"control": "d.1", "candidate": "d.2"},
        "revisions": REVISIONS,
    }
    return RouteSpec(**values | changes)


def experiment(**changes):
    values = {
        "id": "exp",
        "version": 3,
        "gate_salt": "g",
        "gate_start": 0,
        "gate_end": 5000,
        "salt": "e1",
        "hash_field": "user_id",
        "forced": {"vip": "blue"},
        "allocations": (Allocation(0, 5000, "blue"),),
        "arms": {"control": "d.1", "blue": "d.2"},
    }
    return ExperimentSpec(**values | changes)


def unit(parameters=None, metadata=None, fallback="p"):
    return Unit((parameters or {}).get, (metadata or {}).get, fallback)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 10_000))
def test_a_rollout_is_what_the_offline_assignment_says(text, share):
    allocations = assignment.reallocate((), {"candidate": share}) if share else ()
    choice, used, is_sticky = Plan(spec(allocations=allocations)).decide(unit({"tail_number": text}))
    arm = assignment.explain(allocations, "s1", text).arm
    assert (choice.variant, used, is_sticky) == (arm, text, True)
    assert choice.revision == {"control": "d.1", "candidate": "d.2"}[arm]
    assert choice.decision is Decision.ROLLOUT
    assert choice.experiment_version == 0


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_experiment_is_gate_then_salt_and_a_unit_outside_rolls_out(text):
    plan = Plan(spec(experiments=(experiment(),)))
    choice, _, _ = plan.decide(unit({"user_id": text, "tail_number": "N1"}))
    if text == "vip":
        assert (choice.arm, choice.decision) == ("exp/blue", Decision.OVERRIDE)
    elif assignment.bucket("g", text) < 5000:
        arm = "blue" if assignment.bucket("e1", text) < 5000 else "control"
        assert (choice.arm, choice.variant) == (f"exp/{arm}", arm)
        assert (choice.decision, choice.experiment_version) == (Decision.EXPERIMENT, 3)
    else:
        assert choice.decision is Decision.ROLLOUT
        assert choice.variant == assignment.explain(spec().allocations, "s1", "N1").arm


def test_a_forced_unit_comes_before_the_gate():
    plan = Plan(spec(experiments=(experiment(gate_start=0, gate_end=0, forced={"vip": "blue"}),)))
    choice, _, _ = plan.decide(unit({"user_id": "vip"}))
    assert (choice.revision, choice.arm, choice.decision) == ("d.2", "exp/blue", Decision.OVERRIDE)


def test_a_forced_pair_needs_a_real_unit():
    plan = Plan(spec(allocations=(), experiments=(experiment(gate_end=0, forced={"the-id": "blue"}),)))
    assert plan.decide(unit(fallback="the-id"))[0].decision is Decision.ROLLOUT


@pytest.mark.parametrize("forced", [{}, {"u": "red"}])
def test_an_arm_without_its_revision_falls_to_control_and_is_no_exposure(forced):
    gone = experiment(
        gate_end=10_000,
        forced=forced,
        allocations=(Allocation(0, 10_000, "red"),),
        arms={"control": "d.2", "red": "other.9"},
    )
    choice, _, _ = Plan(spec(experiments=(gone,))).decide(unit({"user_id": "u"}))
    assert (choice.revision, choice.variant, choice.arm) == ("d.2", "control", "control")
    assert (choice.decision, choice.experiment_version) == (Decision.ROLLOUT, 0)


def test_a_candidate_without_its_revision_falls_to_control():
    everything = (Allocation(0, 10_000, "candidate"),)
    plan = Plan(spec(allocations=everything, arms={"control": "d.1", "candidate": "gone"}))
    choice, _, _ = plan.decide(unit({"tail_number": "N1"}))
    assert (choice.revision, choice.variant) == ("d.1", "control")


def test_the_unit_is_parameter_then_metadata_then_unsticky():
    plan = Plan(spec())
    both = unit({"tail_number": "P"}, {"x-tail-number": "M"})
    assert plan.decide(both)[1:] == ("P", True)
    assert plan.decide(unit({"tail_number": ""}, {"x-tail-number": "M"}))[1:] == ("M", True)
    assert plan.decide(unit(fallback="oip-id"))[1:] == ("oip-id", False)
    assert metadata_key("User_Id") == "x-user-id"


def test_a_version_pins_the_revision_of_an_arm_before_a_newer_one():
    revisions = (*REVISIONS, RevisionSpec("d.4", "1.0.0"))
    plan = Plan(spec(revisions=revisions))
    assert plan.pinned("1.0.0").id == "d.1"
    assert plan.pinned("d.4").id == "d.4"
    assert not plan.pinned("1.2.0").is_pinnable
    with pytest.raises(NotFound, match=r"these are: 1\.0\.0, 1\.1\.0, 1\.2\.0") as refused:
        plan.pinned("9\n" * 500_000)
    assert refused.value.code == "version_not_found"
    assert len(refused.value.message) < 200
    with pytest.raises(NotFound, match="not in the route"):
        plan.overridden("nope")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"arms": {"candidate": "d.2"}}, "control"),
        ({"arms": {"control": "gone"}}, "stable revision"),
        ({"salt": "a:b"}, "colon"),
        ({"allocations": (Allocation(0, 20_000, "candidate"),)}, "not inside"),
        ({"experiments": (experiment(gate_salt="a:b"),)}, "colon"),
    ],
)
def test_a_route_that_cannot_be_served_is_refused(changes, why):
    with pytest.raises(ValueError, match=why):
        Plan(spec(**changes))


def test_texts_of_clients_are_shortened_and_printable():
    assert shorten("a\r\nb\x00é") == "a??b??"
    assert len(shorten("x" * 10**6)) == 80
    assert shorten(str(uuid.UUID(int=1))) == str(uuid.UUID(int=1))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 10_000))
def test_a_shadow_takes_the_units_that_the_offline_assignment_says(text, bp):
    shadow = Shadow(ShadowSpec("d.2", "shadow-1", bp))
    assert shadow.takes(text) == (assignment.bucket("shadow-1", text) < bp)
    assert Plan(spec(shadow=ShadowSpec("d.2", "shadow-1", bp))).shadow is not None
    assert Plan(spec(shadow=ShadowSpec("d.9", "shadow-1", bp))).shadow is None
