"""What is deleted of executions long past, and what killed builds have left."""

from __future__ import annotations

import fcntl
import os
from datetime import timedelta
from pathlib import Path

import pytest

from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom_pipelines import retention
from phantom_pipelines.containers.workroom import Workroom
from phantom_pipelines.domain.values import Json
from phantom_pipelines.retention import Kept, Retention
from phantom_pipelines.runners.runner import StageContext, StageResult
from phantom_pipelines.service import Progression
from phantom_pipelines.tests.conftest import Running, executed, made, refused, stage
from phantom_pipelines.tests.fakes import for_ever
from phantom_platform.testing.clock import FakeClock

KEPT = Kept(executions=timedelta(days=90), contexts=timedelta(days=30))


async def contextual(stage: StageContext) -> StageResult:
    """A stage that has made the context of its version."""

    async def run() -> Json:
        return {"context_digest": f"sha256:{stage.facts.model.version}"}

    await stage.check("context", run)
    await stage.log("made")
    return StageResult(True)


def found(folder: Path, pattern: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob(pattern)}


async def rows_of(pipelines: Running) -> dict[str, int]:
    names = ("executions", "stages", "checks", "log_lines")
    return {name: await pipelines.database.fetchval(f"SELECT count(*) FROM {name}") for name in names}


@pytest.mark.integration
@pytest.mark.timeout(60)
async def test_executions_go_90_days_after_their_end_in_batches_and_contexts_after_30(
    pipelines: Running,
    ada: PipelineServiceStub,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    pipelines.models.versions = ["1", "2", "3", "4", "5", "6"]
    pipelines.script.plays.update(first=contextual, second=for_ever)
    keeper = Retention(Progression(pipelines.store), Workroom(tmp_path), clock, KEPT)
    (tmp_path / "contexts").mkdir()
    short, long = (
        await made(ada, stage("first")),
        await made(ada, stage("first"), stage("second"), name="long"),
    )
    ids: dict[str, str] = {}

    async def finished(version: str) -> None:
        ids[version] = await executed(ada, short, version=version)
        await pipelines.reaches(ada, ids[version], "succeeded")

    def write_contexts() -> None:
        for version in pipelines.models.versions:
            path = tmp_path / "contexts" / f"{version}.tar"
            path.touch()
            os.utime(path, (clock.now().timestamp(), clock.now().timestamp()))

    write_contexts()
    await pipelines.start_executor()
    for version in ("1", "2", "3"):
        await finished(version)
    ids["4"] = await executed(ada, long, version="4")
    await pipelines.script.event("second").wait()
    clock.advance(20 * 86_400)
    await finished("5")
    before = await rows_of(pipelines)
    await keeper.prune()
    assert await rows_of(pipelines) == before
    assert len(found(tmp_path, "contexts/*.tar")) == 6
    clock.advance(11 * 86_400)  # day 31
    await keeper.prune()
    assert await rows_of(pipelines) == before
    assert found(tmp_path, "contexts/*.tar") == {"contexts/4.tar", "contexts/5.tar"}, (
        "one runs, one ended 11 days ago"
    )
    clock.advance(60 * 86_400)  # day 91
    await keeper.prune()
    assert await rows_of(pipelines) == {"executions": 2, "stages": 3, "checks": 2, "log_lines": 3}
    await refused("execution_not_found", ada.GetExecution(pb.GetExecutionRequest(execution_id=ids["1"])))
    assert (await pipelines.execution(ada, ids["4"])).phase == "running"
    assert (await pipelines.execution(ada, ids["5"])).phase == "succeeded"


async def test_the_next_process_removes_what_a_killed_one_was_building(tmp_path: Path) -> None:
    (tmp_path / "build-1" / "context").mkdir(parents=True)
    (tmp_path / "wheels" / ".wheels-1").mkdir(parents=True)
    (tmp_path / "wheels" / "cp311-1").mkdir()
    (tmp_path / "contexts").mkdir()
    for name in (".context-1", "1.tar"):
        (tmp_path / "contexts" / name).touch()
    alive = os.open(tmp_path / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(alive, fcntl.LOCK_SH)
    room = Workroom(tmp_path)
    await room.start()
    await room.stop()
    assert (tmp_path / "build-1").exists(), "another process may be building"
    os.close(alive)
    await room.start()
    assert found(tmp_path, "**/*") == {".lock", "wheels", "wheels/cp311-1", "contexts", "contexts/1.tar"}
    other = Workroom(tmp_path)
    await other.start()
    await other.stop()
    await room.stop()
