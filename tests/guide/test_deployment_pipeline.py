"""The page on pipelines, run as it is written, by an engineer in a folder with data."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from harness.cli import Shell
from harness.guide import MODEL, Studio, cases_file, python_blocks
from harness.people import REVIEWER
from harness.waiting import eventually
from phantom_ml_studio import DeploymentPipeline, Rollouts
from phantom_ml_studio.errors import Forbidden, Invalid, Refused
from phantom_ml_studio.pipeline_values import Execution, StageStatus

PAGE = Path(__file__).with_name("deployment_pipeline.md")
PREPARING, GUIDES, READING = python_blocks(PAGE)
STAGES = ["model_validation", "build_container", "deploy_staging", "integration_tests", "deploy_production"]
# A stage that builds an image takes what a machine may not have; one that measures depends on what else it does.
BUILDING = re.compile(
    r'pipeline\.add_stage\(\s*ml_pipeline\.id,\s*\{\s*"name": "build_container"(.|\n)*?\n\)\n'
)
RELEASE = BUILDING.sub("", GUIDES).replace('"min_throughput": 1000', '"min_throughput": 10')
RELEASE = RELEASE.replace('name="fraud-detection-deployment"', 'name="fraud-detection-release"')


pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def prepared(studio: Studio) -> dict[str, Any]:
    """What the page's first program leaves behind."""
    (studio.folder / "data").mkdir(exist_ok=True)
    for name, seed in (("transactions", 7), ("staging", 8)):
        cases_file(studio.folder / "data" / f"{name}.csv", seed)
    names: dict[str, Any] = {"client": studio.engineer.client}
    with chdir(studio.folder):
        exec(compile(PREPARING, str(PAGE), "exec"), names)
    return names


def stages_of(execution: Execution) -> dict[str, StageStatus]:
    return {stage.name: stage for stage in execution.stages}


@pytest.fixture(scope="module")
def guides(prepared: dict[str, Any]) -> dict[str, Any]:
    """What the guide's program leaves behind."""
    names = dict(prepared)
    exec(compile(GUIDES, str(PAGE), "exec"), names)
    return names


def test_the_guides_program_begins_an_execution_of_five_stages(
    guides: dict[str, Any], studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = DeploymentPipeline(studio.engineer.client)
    made = pipeline.get("fraud-detection-deployment")
    assert made.id == guides["ml_pipeline"].id
    assert [stage.name for stage in made.stages] == STAGES
    assert made.stages[0].config["performance_checks"]["min_accuracy"] == 0.85
    execution = guides["execution"]
    assert (execution.model_id, execution.model_version, execution.trigger) == (MODEL, "2.1.1", "automated")
    assert guides["status"].phase in ("pending", "running")
    assert guides["status"].current_stage == "model_validation"
    assert 0 <= guides["status"].progress < 100


def test_the_guides_version_is_measured_and_its_base_image_is_judged(
    guides: dict[str, Any], studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = DeploymentPipeline(studio.engineer.client)
    id = guides["execution"].id

    def has_been_built() -> Execution | None:
        now = pipeline.get_execution_status(id)
        return now if now.has_ended or stages_of(now)["build_container"].ended_at else None

    now = eventually(has_been_built, "validation and build", 300)
    assert now is not None
    check, build = stages_of(now)["model_validation"], stages_of(now)["build_container"]
    assert {"accuracy", "latency", "throughput", "security_scan", "dependency_check"} <= set(check.result)
    assert check.attempts == 1
    if check.phase == "failed":  # a machine that does not make the guide's 1,000 requests a second just now
        assert re.search(r"throughput.*\d+", check.reason), check.reason
    elif build.phase == "failed":
        assert re.search(r"python|image|push|registry", build.reason, re.IGNORECASE), build.reason
    else:
        assert "sha256:" in str(build.result)
    if not now.has_ended:
        pipeline.cancel(id, "seen enough")
    ended = pipeline.wait(id, 120)
    assert ended.phase in ("failed", "cancelled")
    exec(compile(READING, str(PAGE), "exec"), guides)
    said = capsys.readouterr().out
    for name in STAGES:
        assert f"{name}: " in said


@pytest.fixture(scope="module")
def release(prepared: dict[str, Any], guides: dict[str, Any], studio: Studio) -> Execution:
    """The guide's program without the image, once it waits for the approval of its last stage, or has ended."""
    pipeline = DeploymentPipeline(studio.engineer.client)
    pipeline.wait(guides["execution"].id, 300)
    names = dict(prepared)
    exec(compile(RELEASE, str(PAGE), "exec"), names)
    id = names["execution"].id

    def has_come_to_the_approval() -> Execution | None:
        now = pipeline.get_execution_status(id)
        return now if now.has_ended or now.phase == "waiting_for_approval" else None

    found = eventually(has_come_to_the_approval, "the approval", 300)
    assert found is not None
    return found


def test_a_good_version_comes_to_staging_is_tested_and_waits_for_the_reviewer(
    release: Execution, studio: Studio
) -> None:
    assert release.phase == "waiting_for_approval", release.reason
    assert release.current_stage == "deploy_production"
    assert release.progress == 75
    stages = stages_of(release)
    for name in ("model_validation", "deploy_staging", "integration_tests"):
        assert stages[name].phase == "succeeded"
        assert stages[name].logs
        assert stages[name].duration_s > 0
    staging = studio.deployments.get(f"{MODEL}-staging")
    assert staging.stable is not None
    assert staging.stable.model_version == "2.1.1"
    approval = stages["deploy_production"].approval
    assert approval is not None
    assert (approval.approvers, approval.state) == ((REVIEWER,), "waiting")


def test_the_requester_may_not_approve_and_the_reviewer_may_once(release: Execution, studio: Studio) -> None:
    with pytest.raises(Forbidden) as own:
        DeploymentPipeline(studio.engineer.client).approve(release.id)
    assert own.value.code == "requester_cannot_approve"
    with pytest.raises(Forbidden) as other:
        DeploymentPipeline(studio.admin.client).approve(release.id)
    assert other.value.code == "not_an_approver"
    reviewer = DeploymentPipeline(studio.reviewer.client)
    assert reviewer.approve(release.id, comment="looks good").phase == "running"
    with pytest.raises(Refused) as again:
        reviewer.reject(release.id, stage="deploy_production")
    assert again.value.code == "already_decided"


def test_production_gets_a_canary_of_5_percent_that_a_cancelled_execution_takes_back(
    release: Execution, studio: Studio
) -> None:
    rollouts, endpoint = Rollouts(studio.engineer.client), f"{MODEL}-prod"

    def canary() -> bool:
        found = rollouts.list(endpoint, live_only=True)
        return bool(found) and found[0].current_percentage == 5

    eventually(canary, "the canary's first share", 90)
    found = rollouts.get(endpoint)
    assert (found.model_version, found.spec["canary"]["interval_s"]) == ("2.1.1", 3600)
    pipeline = DeploymentPipeline(studio.engineer.client)
    pipeline.cancel(release.id, "seen enough")
    ended = pipeline.wait(release.id, 120)
    assert ended.phase == "cancelled"
    assert stages_of(ended)["deploy_production"].phase == "cancelled"
    assert rollouts.get(found.id).state == "rolled_back"


def test_the_pages_commands_test_staging_and_list_what_is_there(
    release: Execution, studio: Studio, tmp_path: Path
) -> None:
    shell = Shell(studio.stack, tmp_path).log_in(studio.engineer)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    test, executions, pipelines = block.splitlines()
    tested = shell.bash(test)
    assert tested.code == 0, tested.err
    assert f"{MODEL}-staging" in tested.out
    assert release.id in shell.bash(executions).out
    assert "fraud-detection-release" in shell.bash(pipelines).out


def test_a_wrong_key_in_a_stage_of_the_guide_is_named(prepared: dict[str, Any], studio: Studio) -> None:
    wrong = GUIDES.replace('"min_accuracy"', '"min_acuracy"').replace("fraud-detection-deployment", "wrong")
    with pytest.raises(Invalid) as caught:
        exec(wrong, {"client": studio.engineer.client})
    assert caught.value.code == "invalid_stage"
    assert "min_acuracy" in str(caught.value.violations)
    assert "min_accuracy" in str(caught.value.violations)
