import pytest

from phantom_statistics.rollouts import (
    Criteria,
    Pair,
    StepEvidence,
    Sums,
    judge,
    levels,
    requests_to_detect_doubling,
)
from phantom_statistics.tests.rollout_sums import step_of, sums_of

EVERYTHING = Criteria(
    error_rate_threshold=0.02,
    latency_p95_threshold_ms=60.0,
    minimum_requests=1_000,
    quality_margin=0.02,
    max_distribution_distance=0.2,
)
STABLE = sums_of(40_000, 0.01)
GOOD, BAD = sums_of(4_500, 0.01, seed=1), sums_of(4_500, 0.03, seed=1)
NAMES = [
    "error_rate_threshold",
    "latency_p95_threshold",
    "minimum_requests",
    "error_rate",
    "latency_p95",
    "rejected_share",
    "accuracy",
    "log_loss",
    "distribution_distance",
]


def test_every_criterion_that_is_on_has_a_finding_with_a_reason():
    found = judge(EVERYTHING, [step_of(GOOD, STABLE)], [GOOD], 3)
    assert [each.criterion for each in found.findings] == NAMES
    assert all(each.reason for each in found.findings)
    assert found.verdict == "pass"
    assert found.fired == ""


def test_what_is_off_has_no_finding():
    off = Criteria(compare_errors=False, compare_latency=False, compare_rejected=False)
    assert [each.criterion for each in judge(off, [step_of(GOOD, STABLE)], [], 3).findings] == [
        "distribution_distance"
    ]


def test_the_first_criterion_that_fails_fires():
    found = judge(EVERYTHING, [step_of(BAD, STABLE)], [BAD] * 3, 3)
    assert found.verdict == "fail"
    assert found.fired == "error_rate"
    threshold = judge(EVERYTHING, [step_of(GOOD, STABLE)], [sums_of(500, 0.2)] * 3, 3)
    assert threshold.fired == "error_rate_threshold"
    assert threshold.finding("error_rate").verdict == "pass"
    assert threshold.finding("nonsense") is None


def test_minimum_requests_hold_a_pass_but_never_a_failure():
    strict = Criteria(minimum_requests=50_000)
    assert judge(strict, [step_of(GOOD, STABLE)], [], 3).verdict == "not_enough_data"
    assert judge(strict, [step_of(BAD, STABLE)], [], 3).verdict == "fail"
    assert judge(strict, [step_of(GOOD, STABLE)], [], 3, requests=50_000).verdict == "pass"


def test_the_minimum_counts_the_current_step_only():
    steps = [step_of(GOOD, STABLE, 0), step_of(sums_of(200, seed=5), STABLE, 1)]
    found = judge(Criteria(minimum_requests=1_000), steps, [], 3).finding("minimum_requests")
    assert (found.verdict, found.count) == ("not_enough_data", 200)


def test_failures_of_earlier_steps_still_count():
    steps = [step_of(BAD, STABLE, 0), step_of(sums_of(200, 0.01, seed=5), sums_of(3_000, 0.01, seed=6), 1)]
    assert judge(Criteria(), steps, [], 3).fired == "error_rate"


def test_no_evidence_at_all_is_not_enough():
    assert judge(EVERYTHING, [], [], 3).verdict == "not_enough_data"
    empty = StepEvidence(0, Pair.empty(), Pair.empty())
    assert judge(EVERYTHING, [empty], [Sums()], 3).verdict == "not_enough_data"


def test_few_units_hold():
    found = judge(Criteria(), [step_of(sums_of(4_500, 0.01, seed=1, units=20), STABLE)], [], 3)
    assert found.verdict == "not_enough_units"
    assert found.fired == ""


def test_labels_that_are_missing_do_not_hold_but_incomparable_ones_do():
    unlabelled = step_of(sums_of(4_500, 0.01, seed=1, labelled=0.0), sums_of(40_000, 0.01, labelled=0.0))
    assert judge(Criteria(quality_margin=0.02), [unlabelled], [], 3).verdict == "pass"
    uneven = step_of(sums_of(4_500, 0.01, seed=1, labelled=0.5), STABLE)
    assert judge(Criteria(quality_margin=0.02), [uneven], [], 3).verdict == "not_comparable"


def test_a_bad_model_with_clean_operations_fails_on_its_outcomes():
    wrong = step_of(sums_of(4_500, 0.01, seed=1, log_loss=1.5), STABLE)
    found = judge(EVERYTHING, [wrong], [GOOD], 3)
    assert found.fired == "log_loss"
    assert found.finding("error_rate").verdict == "pass"


def test_the_same_evidence_gives_the_same_verdict():
    assert judge(EVERYTHING, [step_of(BAD, STABLE)], [BAD], 3) == judge(
        EVERYTHING, [step_of(BAD, STABLE)], [BAD], 3
    )


def test_the_parts_of_the_level_add_up_to_at_most_the_level():
    for criteria in (EVERYTHING, Criteria(), Criteria(compare_latency=False, level=0.2)):
        parts = levels.of_tests(criteria)
        total = sum(getattr(parts, name) for name in parts.__slots__)
        assert total <= criteria.level * (1 + 1e-9)
    assert levels.of_tests(Criteria(compare_errors=False)).errors == 0
    assert levels.of_tests(Criteria()).errors > levels.of_tests(EVERYTHING).errors >= 0.05 / 4


def test_the_calls_that_show_a_doubling():
    assert requests_to_detect_doubling(0.01) == 4_500
    assert requests_to_detect_doubling(0.5) == 90
    for impossible in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="error rate"):
            requests_to_detect_doubling(impossible)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("error_rate_threshold", 1.0),
        ("error_rate_threshold", -0.1),
        ("error_rate_threshold", float("nan")),
        ("latency_p95_threshold_ms", 0.0),
        ("latency_p95_threshold_ms", float("inf")),
        ("minimum_requests", -1),
        ("quality_margin", -0.02),
        ("max_distribution_distance", 1.5),
        ("latency_tolerance", -0.1),
        ("level", 0.0),
        ("level", 0.5),
    ],
)
def test_criteria_that_cannot_be_judged_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        Criteria(**{field: value})


def test_a_failure_threshold_below_one_is_refused():
    with pytest.raises(ValueError, match="failure_threshold"):
        judge(Criteria(), [], [], 0)
