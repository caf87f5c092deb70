"""Whether everything is there that a pipeline's stages name, asked before an execution begins."""

from __future__ import annotations

from phantom_pipelines.domain.configs import StageConfig
from phantom_pipelines.domain.configs.deployment import DeploymentConfig
from phantom_pipelines.domain.configs.testing import TestingConfig
from phantom_pipelines.domain.configs.validation import ValidationConfig
from phantom_pipelines.domain.pipeline import Pipeline, specs
from phantom_pipelines.service import find
from phantom_pipelines.service.ports import Deployments, Models, Reads
from phantom_platform.errors import NotFound, Refused


class Named:
    """Looks in one workspace."""

    def __init__(self, workspace: str, reads: Reads, models: Models, deployments: Deployments) -> None:
        self._workspace = workspace
        self._reads = reads
        self._models = models
        self._deployments = deployments
        self._environments: list[str] | None = None

    async def check(self, pipeline: Pipeline) -> None:
        """`Refused` with the code of what is missing, naming the stage that needs it."""
        deploys = False
        for stage, spec in specs(pipeline):
            try:
                await self._check(spec.config, deploys)
            except NotFound as error:
                raise Refused(
                    f"stage {stage.name}: {error.message}", code=error.code, stage=stage.name
                ) from error
            deploys = deploys or stage.type == "deployment"

    async def _check(self, config: StageConfig, deploys_before: bool) -> None:
        match config:
            case DeploymentConfig(environment=name):
                await self._environment(name)
            case TestingConfig():
                await self._environment(config.environment)
                await self._cases(config)
                # A stage before may be what deploys it.
                if config.endpoint and not deploys_before:
                    await self._deployments.endpoint(self._workspace, config.endpoint)
            case ValidationConfig():
                await self._validation(config, deploys_before)

    async def _cases(self, config: TestingConfig) -> None:
        suite = await find.suite(self._reads, self._workspace, config.test_suite)
        if config.test_data:
            await self._models.dataset(self._workspace, config.test_data, config.test_data_version)
        else:
            await self._models.dataset(self._workspace, suite.dataset, suite.dataset_version)

    async def _validation(self, config: ValidationConfig, deploys_before: bool) -> None:
        if config.dataset:
            await self._models.dataset(self._workspace, config.dataset, config.dataset_version)
        if config.replay is not None:
            await self._environment(config.replay.environment)
            if config.replay.endpoint and not deploys_before:
                await self._deployments.endpoint(self._workspace, config.replay.endpoint)

    async def _environment(self, name: str) -> None:
        if not name:
            return
        if self._environments is None:
            self._environments = await self._deployments.environments(self._workspace)
        find.among_environments(name, self._environments)
