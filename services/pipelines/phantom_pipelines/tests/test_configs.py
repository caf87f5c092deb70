"""What stages can be told, and how what is wrong with it is named."""

from __future__ import annotations

from typing import Any

import pytest

from phantom_pipelines.domain import configs
from phantom_pipelines.domain.configs.containerization import ContainerizationConfig
from phantom_pipelines.domain.configs.deployment import AutoRollback, Canary, DeploymentConfig, Replay
from phantom_pipelines.domain.configs.testing import TestingConfig
from phantom_pipelines.domain.configs.validation import Replaying, ValidationConfig
from phantom_platform.errors import Invalid

GUIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "model_validation": (
        "validation",
        {
            "performance_checks": {"min_accuracy": 0.85, "max_latency": 100, "min_throughput": 1000},
            "security_scan": True,
            "dependency_check": True,
        },
    ),
    "build_container": (
        "containerization",
        {
            "base_image": "python:3.9-slim",
            "registry": "phantomml.azurecr.io",
            "image_name": "fraud-detection",
            "tag_strategy": "version+hash",
        },
    ),
    "deploy_staging": (
        "deployment",
        {
            "environment": "staging",
            "strategy": "blue_green",
            "health_check_timeout": 300,
            "rollback_on_failure": True,
        },
    ),
    "integration_tests": (
        "testing",
        {
            "test_suite": "integration_tests",
            "test_data": "staging_test_data",
            "success_criteria": {"test_pass_rate": 0.95, "performance_degradation": 0.05},
        },
    ),
    "deploy_production": (
        "deployment",
        {
            "environment": "production",
            "strategy": "canary",
            "canary_percentage": 5,
            "canary_duration": 3600,
            "approval_required": True,
            "approvers": ["senior-ml-engineer@company.com"],
        },
    ),
}


def test_the_guides_five_stages_are_understood_as_they_stand() -> None:
    read = {name: configs.read(kind, config) for name, (kind, config) in GUIDE.items()}
    assert read["model_validation"].config == ValidationConfig(0.85, 100, 1000, True, True)
    assert read["build_container"].config == ContainerizationConfig(
        "python:3.9-slim", "phantomml.azurecr.io", "fraud-detection", "version+hash"
    )
    staging = read["deploy_staging"].config
    assert isinstance(staging, DeploymentConfig)
    assert (staging.environment, staging.strategy) == ("staging", "blue_green")
    assert (staging.health_check_timeout_s, staging.auto_rollback.is_enabled) == (300, True)
    assert read["integration_tests"].config == TestingConfig(
        "integration_tests",
        "staging_test_data",
        test_pass_rate=0.95,
        performance_degradation=0.05,
    )
    production = read["deploy_production"]
    assert isinstance(production.config, DeploymentConfig)
    assert production.config.canary == Canary(5, None, 3600)
    assert production.approval == configs.ApprovalRule(("senior-ml-engineer@company.com",), 86_400)
    assert read["deploy_staging"].approval is None


def test_a_validation_may_replay_past_requests() -> None:
    read = configs.read(
        "validation", {"replay": {"requests": 500, "endpoint": "fraud-prod", "max_disagreement": 0.01}}
    ).config
    assert isinstance(read, ValidationConfig)
    assert read.checks == ("replay",)
    assert read.replay == Replaying(Replay(500, max_disagreement=0.01), endpoint="fraud-prod")
    assert read.replay is not None
    assert read.replay.replay.has_limits
    assert not Replay(500).has_limits


def problems(kind: str, config: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        configs.read(kind, config)
    assert caught.value.code == "invalid_stage"
    return {each.field.removeprefix("stage."): each.description for each in caught.value.violations}


@pytest.mark.parametrize(
    ("kind", "config", "field", "words"),
    [
        ("valdation", {}, "type", "did you mean 'validation'"),
        ("", {}, "type", "missing"),
        ("validation", {}, "config", "checks nothing"),
        ("validation", {"security_scan": False}, "config", "checks nothing"),
        ("validation", {"securty_scan": True}, "config.securty_scan", "did you mean 'security_scan'"),
        ("validation", {"security_scan": "yes"}, "config.security_scan", "use true or false"),
        ("validation", {"performance_checks": 3}, "config.performance_checks", "use a mapping"),
        (
            "validation",
            {"performance_checks": {"min_acuracy": 0.9}},
            "config.performance_checks.min_acuracy",
            "did you mean 'min_accuracy'",
        ),
        (
            "validation",
            {"performance_checks": {"min_accuracy": 85}},
            "config.performance_checks.min_accuracy",
            "is 85; use more than 0 and at most 1",
        ),
        (
            "validation",
            {"performance_checks": {"max_latency": "100"}},
            "config.performance_checks.max_latency",
            "use a number",
        ),
        (
            "validation",
            {"security_scan": True, "dataset_version": "1"},
            "config.dataset_version",
            "of no dataset",
        ),
        (
            "validation",
            {"security_scan": True, "require_advisories": True},
            "config.require_advisories",
            "is for dependency_check",
        ),
        ("validation", {"replay": {"environment": "staging"}}, "config.replay.requests", "is missing"),
        ("validation", {"replay": {"requests": 10}}, "config.replay", "one of environment and endpoint"),
        (
            "validation",
            {"replay": {"requests": 10, "environment": "staging", "endpoint": "fraud-staging"}},
            "config.replay",
            "one of environment and endpoint",
        ),
        (
            "validation",
            {"replay": {"requests": 10, "environment": "staging", "max_disagreemnt": 1}},
            "config.replay.max_disagreemnt",
            "did you mean 'max_disagreement'",
        ),
        ("validation", {"security_scan": True, "dataset": "a b"}, "config.dataset", "not allowed"),
        ("containerization", {"tag_strategy": "verson"}, "config.tag_strategy", "did you mean 'version'"),
        ("containerization", {"base_image": "not an image"}, "config.base_image", "no base image"),
        ("containerization", {"image_name": "Upper"}, "config.image_name", "no image name"),
        ("containerization", {"registry": "http://x"}, "config.registry", "no registry"),
        ("deployment", {}, "config.environment", "missing"),
        ("deployment", {"environment": "Prod"}, "config.environment", "not allowed"),
        (
            "deployment",
            {"environment": "a", "strategy": "blue-green"},
            "config.strategy",
            "did you mean 'blue_green'",
        ),
        (
            "deployment",
            {"environment": "a", "canary_percentage": 5},
            "config.canary_percentage",
            "for strategy canary only",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "max_surge": 1},
            "config.max_surge",
            "for strategy rolling only",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "canary_percentage": 500},
            "config.canary_percentage",
            "at most 100",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "canary_duration": 60, "increment_percentage": 5},
            "config.canary_duration",
            "give increment_interval_minutes",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "increment_interval_minutes": 1},
            "config.increment_interval_minutes",
            "give canary_duration",
        ),
        (
            "deployment",
            {"environment": "a", "rollback_on_failure": True, "auto_rollback": {"enabled": False}},
            "config.auto_rollback.enabled",
            "the opposite",
        ),
        ("deployment", {"environment": "a", "replay": {}}, "config.replay.requests", "missing"),
        ("deployment", {"environment": "a", "replicas": 1.5}, "config.replicas", "whole number"),
        (
            "deployment",
            {"environment": "a", "success_criteria": {"error_rate": 0.1}},
            "config.success_criteria.error_rate",
            "did you mean 'error_rate_threshold'",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "pause_at": [5, 100]},
            "config.pause_at",
            "between 0 and 100",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "pause_at": [50]},
            "config.pause_at",
            "50 is the share of no step",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "canary_percentage": 1.234},
            "config.canary_percentage",
            "steps of 0.01",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "canary_duration": 60, "analysis_interval": 90},
            "config.analysis_interval",
            "longer than a step",
        ),
        (
            "deployment",
            {"environment": "a", "strategy": "canary", "increment_percentage": 0.05},
            "config.increment_percentage",
            "more than 1000 steps",
        ),
        (
            "deployment",
            {"environment": "a", "auto_rollback": {"rollback_percentage": 1}},
            "config.auto_rollback.rollback_percentage",
            "no share to leave",
        ),
        (
            "deployment",
            {"environment": "a", "success_criteria": {"quality_margin": 0}},
            "config.success_criteria.quality_margin",
            "negative one for off",
        ),
        ("testing", {}, "config.test_suite", "missing"),
        (
            "testing",
            {"test_suite": "a", "success_criteria": {"test_pass_rate": 95}},
            "config.success_criteria.test_pass_rate",
            "at most 1",
        ),
        ("testing", {"test_suite": "a", "timeout": 0}, "config.timeout", "more than 0"),
        ("testing", {"test_suite": "a", "test_data_version": "1"}, "config.test_data_version", "no dataset"),
        ("approval", {"approval_required": False}, "config.approval_required", "nothing but that"),
        ("approval", {"approvers": "bob"}, "config.approvers", "use a list"),
        ("approval", {"approvers": ["bob", "bob"]}, "config.approvers", "each once"),
        ("approval", {"approvers": ["a b"]}, "config.approvers[0]", "not allowed"),
        ("approval", {"approval_timeout": -1}, "config.approval_timeout", "more than 0"),
        (
            "testing",
            {"test_suite": "a", "approvers": ["bob"]},
            "config.approvers",
            "for stages with approval_required: true",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(
    kind: str, config: dict[str, Any], field: str, words: str
) -> None:
    found = problems(kind, config)
    assert list(found) == [field]
    assert words in found[field]


def test_everything_that_is_wrong_is_named_at_once() -> None:
    found = problems(
        "deployment", {"strategy": "x", "health_check_timeout": -1, "replicas": "two", "colour": "blue"}
    )
    assert set(found) == {
        "config.environment",
        "config.strategy",
        "config.health_check_timeout",
        "config.replicas",
        "config.colour",
    }


def test_what_a_canary_can_be_told_is_kept_to_the_letter() -> None:
    read = configs.read(
        "deployment",
        {
            "environment": "production",
            "strategy": "canary",
            "canary_percentage": 1,
            "increment_percentage": 5,
            "increment_interval_minutes": 0.5,
            "analysis_interval": 10,
            "pause_at": [51],
            "success_criteria": {
                "error_rate_threshold": 0.01,
                "minimum_requests": 1000,
                "compare_errors": False,
            },
            "auto_rollback": {"enabled": True, "failure_threshold": 2, "rollback_percentage": 1},
            "replay": {"requests": 500, "max_disagreement": 0.01},
            "rollback_window": 5,
            "on_conflict": "supersede",
        },
    ).config
    assert isinstance(read, DeploymentConfig)
    assert read.canary == Canary(1, 5, 30, 10, (51,))
    assert (read.criteria.compare_errors, read.criteria.compare_latency) == (False, None)
    assert (read.criteria.error_rate_threshold, read.criteria.minimum_requests) == (0.01, 1000)
    assert read.auto_rollback == AutoRollback(True, 2, 1)
    assert read.replay == Replay(500, 0.01)
    assert (read.rollback_window_s, read.on_conflict) == (5, "supersede")


@pytest.mark.parametrize(("strategy", "window_s"), [("blue_green", 60.0), ("rolling", 0.0), ("canary", -1.0)])
def test_how_long_the_old_revision_stays_warm_depends_on_the_strategy(strategy: str, window_s: float) -> None:
    read = configs.read("deployment", {"environment": "a", "strategy": strategy}).config
    assert isinstance(read, DeploymentConfig)
    assert read.rollback_window_s == window_s
