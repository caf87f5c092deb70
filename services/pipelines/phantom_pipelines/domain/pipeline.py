"""A pipeline: a list of stages that only grows. Executions keep the stages they began with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from phantom_pipelines.domain import configs
from phantom_pipelines.domain.configs.deployment import DeploymentConfig
from phantom_pipelines.domain.configs.testing import TestingConfig
from phantom_pipelines.domain.values import Json
from phantom_platform.errors import AlreadyExists, Exhausted, Invalid, Refused, Violation
from phantom_platform.ids import check_name

MAX_STAGES = 50


@dataclass(frozen=True)
class Stage:
    """As it was given; `configs.read` understands it."""

    name: str
    type: str
    config: Json


@dataclass(frozen=True)
class Pipeline:
    """`version` grows with every change."""

    pipeline_id: str
    name: str
    description: str
    stages: tuple[Stage, ...]
    created_at: datetime
    created_by: str
    version: int = 1


def check_stage(stage: Stage) -> configs.StageSpec:
    """What it says. `Invalid` `invalid_stage` naming everything that is wrong with it."""
    try:
        check_name(stage.name, "stage.name")
    except Invalid as error:
        raise Invalid(code="invalid_stage", violations=error.violations) from error
    return configs.read(stage.type, stage.config)


def add_stage(pipeline: Pipeline, stage: Stage) -> Pipeline:
    """The pipeline with one more stage at its end. `AlreadyExists` `stage_exists` where one has its name."""
    spec = check_stage(stage)
    if any(each.name == stage.name for each in pipeline.stages):
        raise AlreadyExists(
            f"pipeline {pipeline.name} has a stage {stage.name} already; give this one another name",
            code="stage_exists",
            stage=stage.name,
        )
    if len(pipeline.stages) >= MAX_STAGES:
        raise Exhausted(f"a pipeline has at most {MAX_STAGES} stages", code="too_many_stages")
    check_order(spec, pipeline.stages)
    return replace(pipeline, stages=(*pipeline.stages, stage), version=pipeline.version + 1)


def check_order(spec: configs.StageSpec, before: Iterable[Stage]) -> None:
    """Raise `Invalid` where a stage needs another one before it."""
    config = spec.config
    if not isinstance(config, TestingConfig):
        return
    deploys = any(each.type == "deployment" for each in before)
    problems = []
    if not deploys and not config.environment and not config.endpoint:
        problems.append(
            Violation(
                "stage.config.environment",
                "is missing: there is no deployment stage before this one, so say where to run the tests",
            )
        )
    if not deploys and config.performance_degradation is not None:
        problems.append(
            Violation(
                "stage.config.success_criteria.performance_degradation",
                "compares with the version served before a deployment, and there is no deployment stage before",
            )
        )
    if problems:
        raise Invalid(code="invalid_stage", violations=problems)


def specs(pipeline: Pipeline) -> list[tuple[Stage, configs.StageSpec]]:
    """Every stage and what it says. `Refused` `pipeline_empty` without one."""
    if not pipeline.stages:
        raise Refused(
            f"pipeline {pipeline.name} has no stage yet; add one first",
            code="pipeline_empty",
            pipeline_id=pipeline.pipeline_id,
        )
    return [(each, configs.read(each.type, each.config, f"stage {each.name}")) for each in pipeline.stages]


def environments(pipeline: Pipeline) -> list[str]:
    """The environments that its stages name, each once, in their order."""
    found: dict[str, None] = {}
    for _, spec in specs(pipeline):
        if isinstance(spec.config, DeploymentConfig | TestingConfig) and spec.config.environment:
            found[spec.config.environment] = None
    return list(found)
