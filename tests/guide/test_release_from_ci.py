"""The page on CI: its jobs, step by step, as a runner would take them, for two commits after one another."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import models
from harness.cli import Ran, Shell
from harness.guide import MODEL, Studio, cases_file
from harness.waiting import eventually
from phantom_ml_studio import Rollouts, TestSuites
from phantom_ml_studio.errors import AlreadyExists

PAGE = Path(__file__).with_name("release_from_ci.md")
JOBS: dict[str, Any] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])[
    "jobs"
]
COMMITS = {"2.4.0": "0c2e6f1", "2.5.0": "9b7d3aa"}

pytestmark = pytest.mark.timeout(300)


def steps(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"]]


class Runner:
    """A checkout with a trained model, and a login."""

    def __init__(self, studio: Studio, folder: Path) -> None:
        self.shell = Shell(studio.stack, folder).log_in(studio.engineer)

    def run(self, script: str, version: str) -> Ran:
        """A step, as a runner fills it in."""
        for name, value in (("ref_name", version), ("sha", COMMITS[version])):
            script = script.replace("${{ github." + name + " }}", value)
        assert "${{" not in script
        return self.shell.bash(f"( {script.strip()} ) || exit $?")


@pytest.fixture(scope="module")
def runner(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """With the suite that the steps name."""
    folder = tmp_path_factory.mktemp("checkout")
    studio.registry.register_dataset("ci_cases", "1.0", cases_file(studio.folder / "cases.csv", 9))
    with suppress(AlreadyExists):
        TestSuites(studio.engineer.client).create("integration_tests", "ci_cases", max_cases=100)
    return Runner(studio, folder)


@pytest.mark.parametrize("version", COMMITS)
def test_each_commit_is_registered_comes_to_staging_and_is_tested_there(
    version: str, runner: Runner, studio: Studio
) -> None:
    models.xgboost_file(runner.shell.folder / "model.json", seed=int(version[2]))
    (register,) = steps("register")
    assert runner.run(register, version).code == 0
    deploy, test = steps("deploy-staging")
    deployed = runner.run(deploy, version)
    assert deployed.code == 0, deployed.err
    assert f"fraud-detection:{COMMITS[version]} is version {version} of {MODEL}" in deployed.err
    served = eventually(
        lambda: (found := studio.deployments.get(f"{MODEL}-staging")).stable and found, "a stable version"
    )
    assert served.stable is not None
    assert served.stable.model_version == version
    tested = runner.run(test, version)
    assert tested.code == 0, tested.err
    assert version in tested.out


def test_production_waits_for_somebody_else_and_then_gets_its_share(runner: Runner, studio: Studio) -> None:
    (deploy,) = steps("deploy-production")
    pending = runner.run(deploy, "2.5.0")
    assert pending.code == 3, pending.err
    engineer, reviewer = Rollouts(studio.engineer.client), Rollouts(studio.reviewer.client)
    rollout = engineer.get(f"{MODEL}-prod")
    assert (rollout.model_version, rollout.steps) == ("2.5.0", 2)
    eventually(lambda: engineer.get(rollout.id).state == "waiting_for_approval", "the approval is asked for")
    again = runner.run(deploy, "2.5.0")
    assert again.code == 5
    assert "[rollout_live]" in again.err
    assert rollout.id in again.err
    reviewer.approve(rollout.id)
    eventually(lambda: engineer.get(rollout.id).current_percentage == 5, "the canary's share")
    engineer.rollback(rollout.id, "seen enough")
    assert engineer.wait(rollout.id, 60).state == "rolled_back"


def test_an_image_that_nobody_registered_is_refused(runner: Runner) -> None:
    deploy, _ = steps("deploy-staging")
    refused = runner.run(deploy.replace("${{ github.sha }}", "never"), "2.5.0")
    assert refused.code == 5
    assert "[unknown_image]" in refused.err
