"""Stages, approvals, claims and page tokens as arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom_platform.errors import AlreadyExists, Conflict, Forbidden, Invalid, PhantomError, Refused
from phantom_registry.domain import approvals, pages, versions
from phantom_registry.domain.approvals import PromotionAsk, State
from phantom_registry.domain.stages import Stage, check_move, initial_stage
from phantom_registry.domain.values import Actor, Version, VersionSpec
from phantom_runtimes.formats import FRAMEWORKS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
D, S, P, A = Stage.DEVELOPMENT, Stage.STAGING, Stage.PRODUCTION, Stage.ARCHIVED


def version(**fields: Any) -> Version:
    plain = {
        "model_id": "fraud",
        "version": "1.0.0",
        "digest": DIGEST,
        "size_bytes": 10,
        "file_name": "m.json",
        "framework": "xgboost",
        "stage": S,
        "description": "",
        "metadata": {},
        "claimed_metrics": {},
        "model_schema": "",
        "changes": (),
        "performance_comparison": {},
        "created_at": NOW,
        "created_by": "ada",
    }
    return Version(**{**plain, **fields})


def pending(reviewer: str = "bob", requester: str = "cleo") -> approvals.Promotion:
    ask = PromotionAsk("fraud", "1.0.0", S, P, approval_required=True, reviewer=reviewer)
    return approvals.propose(ask, version(), Actor(requester, "default"), "p1", NOW)


# -- stages ------------------------------------------------------------------------


@pytest.mark.parametrize("current", list(Stage))
@pytest.mark.parametrize("target", list(Stage))
def test_every_move_is_allowed_but_to_where_one_is_and_from_the_archive_to_production(
    current: Stage, target: Stage
) -> None:
    if current == target or (current, target) == (A, P):
        with pytest.raises(Refused):
            check_move(current, None, target)
    else:
        check_move(current, current, target)


def test_a_stale_view_of_the_stage_is_a_conflict_that_names_both() -> None:
    with pytest.raises(Conflict) as caught:
        check_move(D, S, P)
    assert caught.value.code == "stale_stage"
    assert caught.value.fields == {"stage": "development", "from_stage": "staging"}


@pytest.mark.parametrize(
    ("asked", "may_promote", "expected"),
    [(None, False, D), (D, False, D), (S, False, S), (P, True, P), (P, False, Forbidden), (A, True, Invalid)],
)
def test_where_a_version_may_be_born(asked: Stage | None, may_promote: bool, expected: Any) -> None:
    if isinstance(expected, Stage):
        assert initial_stage(asked, may_promote) == expected
    else:
        with pytest.raises(expected):
            initial_stage(asked, may_promote)


# -- approvals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"approval_required": True}, "reviewer_missing"),
        ({"approval_required": True, "reviewer": "cleo"}, "reviewer_is_requester"),
        ({"reviewer": "bob"}, "approval_not_required"),
        ({"expires_in_s": 5}, "approval_not_required"),
    ],
)
def test_an_ask_whose_words_do_not_fit_is_refused(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(Invalid) as caught:
        approvals.check_ask(PromotionAsk("fraud", "1.0.0", S, P, **fields), Actor("cleo", "default"))
    assert caught.value.code == code


def test_the_author_of_a_version_cannot_be_its_reviewer() -> None:
    with pytest.raises(Invalid) as caught:
        pending(reviewer="ada")
    assert caught.value.code == "reviewer_is_author"


@pytest.mark.parametrize(
    ("decider", "may_approve", "code"),
    [
        ("bob", False, None),
        ("dora", True, None),
        ("dora", False, "not_the_reviewer"),
        ("cleo", False, "own_request"),
        ("cleo", True, "own_request"),
        ("ada", False, "own_version"),
        ("ada", True, "own_version"),
    ],
)
def test_who_may_decide(decider: str, may_approve: bool, code: str | None) -> None:
    actor = Actor(decider, "default", may_approve=may_approve)
    if code is None:
        approvals.check_decider(pending(), version(), actor)
        return
    with pytest.raises(Forbidden) as caught:
        approvals.check_decider(pending(), version(), actor)
    assert caught.value.code == code


@given(st.floats(0, 14 * 86_400))
def test_a_pending_promotion_is_expired_from_its_expiry_on(age_s: float) -> None:
    promotion, now = pending(), NOW + timedelta(seconds=age_s)
    is_late = promotion.expires_at is not None and now >= promotion.expires_at
    assert approvals.seen_at(promotion, now).state == (State.EXPIRED if is_late else State.PENDING)
    if is_late:
        with pytest.raises(Refused) as caught:
            approvals.check_open(promotion, now)
        assert caught.value.code == "expired"
    else:
        approvals.check_open(promotion, now)


@pytest.mark.parametrize("grant", [True, False])
def test_a_decision_is_final(grant: bool) -> None:
    decided = approvals.decided(pending(), grant, Actor("bob", "default"), "fine", NOW)
    assert decided.state == (State.EXECUTED if grant else State.REJECTED)
    late = NOW + timedelta(days=30)
    with pytest.raises(Refused) as caught:
        approvals.check_open(decided, late)
    assert caught.value.code == "already_decided"


@pytest.mark.parametrize(
    ("changes", "code"), [({"digest": OTHER}, "artifact_replaced"), ({"stage": D}, "stale_stage"), ({}, None)]
)
def test_the_gates_are_asked_of_the_version_as_it_is_at_execution(
    changes: dict[str, Any], code: str | None
) -> None:
    if code is None:
        approvals.check_gates(pending(), version())
        return
    with pytest.raises(PhantomError) as caught:
        approvals.check_gates(pending(), version(**changes))
    assert caught.value.code == code


# -- versions ----------------------------------------------------------------------


def test_other_bytes_under_a_known_version_are_refused_with_both_digests() -> None:
    with pytest.raises(AlreadyExists) as caught:
        versions.check_same(version(), VersionSpec("1.0.0", OTHER, "m.json"), same_schema=True)
    assert caught.value.code == "version_exists"
    assert DIGEST in caught.value.message
    assert OTHER in caught.value.message


@pytest.mark.parametrize(
    ("metadata", "found", "codes"),
    [
        ({}, "xgboost-json", []),
        ({"framework": "xgboost", "algorithm": "XGBClassifier"}, "xgboost-ubj", []),
        ({"framework": "XGB"}, "xgboost-ubj", []),
        ({"framework": "scikit-learn", "algorithm": "xgboost"}, "xgboost-ubj", ["framework_mismatch"]),
        ({"framework": "scikit-learn", "algorithm": "xgboost"}, "pickle", []),
        ({"framework": "sklearn"}, "skops", []),
        ({"framework": "pytorch"}, "onnx", ["framework_mismatch"]),
        ({"algorithm": "LightGBM"}, "xgboost-json", ["algorithm_mismatch"]),
        ({"algorithm": "gradient boosting"}, "xgboost-json", []),
        ({"algorithm": "logistic_regression"}, "xgboost-json", ["algorithm_mismatch"]),
        ({"algorithm": "logistic_regression"}, "onnx", []),
        ({"framework": 7, "algorithm": ["xgboost"]}, "onnx", []),
    ],
)
def test_claims_are_compared_with_what_the_artifact_is(
    metadata: dict[str, Any], found: str, codes: list[str]
) -> None:
    assert [each["code"] for each in versions.claim_warnings(metadata, found)] == codes


@pytest.mark.parametrize("name", ["a/b.json", "..", "a\\b", "a\nb"])
def test_a_path_is_not_a_file_name(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        versions.check_file_name(name)
    assert caught.value.code == "invalid_file_name"


@pytest.mark.parametrize("tag", ["", "  ", "x" * 129])
def test_an_empty_or_endless_tag_is_refused(tag: str) -> None:
    with pytest.raises(Invalid) as caught:
        versions.check_tags(["fine", tag])
    assert caught.value.violations[0].field == "tags[1]"


def test_the_registrys_own_key_in_metadata_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        versions.check_metadata({versions.WARNINGS: []}, "version.metadata")
    assert caught.value.code == "reserved_key"


# -- pages -------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1), st.text(), st.lists(st.text()))
def test_a_page_token_comes_back_as_it_went(last: int, text: str, tags: list[str]) -> None:
    assert pages.page(7, pages.token(last, text, tags), text, tags).before == last


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_other_text_is_not_a_page_token(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        pages.page(0, text, "a")
    assert caught.value.code == "invalid_page_token"


def test_a_token_of_another_list_is_refused() -> None:
    with pytest.raises(Invalid, match="other filters"):
        pages.page(0, pages.token(5, "fraud"), "churn")


def test_no_more_rows_no_token() -> None:
    assert pages.token(None, "fraud") == ""
    assert pages.page(0, "").size == pages.DEFAULT_SIZE


def test_the_frameworks_are_those_that_the_runtimes_serve() -> None:
    served = {found: framework for framework, formats in FRAMEWORKS.items() for found in formats}
    assert served == versions.FRAMEWORK_OF_FORMAT
