"""Real processes: a small stand-in for the model server, and the real one."""

import fcntl
import os
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from phantom_contracts.launch import LaunchFile
from phantom_deployer.domain.deployment import Deployment, Replica
from phantom_deployer.domain.reconcile import Observation
from phantom_deployer.local_backend import LocalBackend, LocalSettings
from phantom_deployer.replica_calls import ReplicaCalls
from phantom_deployer.replica_files import ReplicaFiles
from phantom_deployer.tests.builders import created
from phantom_platform.clock import SystemClock
from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.testing.waiting import until

FAKE = "phantom_deployer.tests.fake_model_server"


class Tokens:
    def __init__(self) -> None:
        self.is_away = False
        self.issued = 0

    async def issue(self, workspace: str, digest: str, subject: str) -> str:
        if self.is_away:
            raise Unavailable("governance is away")
        self.issued += 1
        return f"token-{self.issued}"


class Bench:
    """A backend over a folder; `again` is the deployer after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = Tokens()
        self.backends: list[LocalBackend] = []
        self.backend = self.again()

    def again(self) -> LocalBackend:
        settings = LocalSettings(
            self.folder, "127.0.0.1:1", drain_timeout_s=5, model_server_module=FAKE, runtime="native"
        )
        self.backend = LocalBackend(settings, self.tokens, SystemClock(), ReplicaCalls())
        self.backends.append(self.backend)
        return self.backend

    def files(self, replica: Replica) -> ReplicaFiles:
        return ReplicaFiles(self.folder, replica.id)

    async def seen(self, deployment: Deployment) -> Observation:
        return next(iter((await self.backend.observe(deployment)).values()))


@pytest_asyncio.fixture(loop_scope="session")
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for path in (tmp_path / "replicas").glob("*.lock"):
        made.backend.signal(path.name.removesuffix(".lock"), signal.SIGKILL)
    for backend in made.backends:
        await backend.close()


def deployment_of(behaviour: str = "model.json", launch_id: str = "l1") -> tuple[Deployment, Replica]:
    deployment = created()
    revision = deployment.revisions[0]
    revision = replace(revision, model=replace(revision.model, file_name=behaviour))
    replica = Replica("r1", revision.id, drain_key="k" * 32, phase="starting", launch_id=launch_id)
    return deployment.with_revision(revision).with_process(replica), replica


async def started(bench: Bench, behaviour: str = "model.json") -> tuple[Deployment, Replica, Observation]:
    """A replica that serves, as the deployment knows it then."""
    deployment, replica = deployment_of(behaviour)
    await bench.backend.launch(deployment, replica)
    await until(lambda: _is_agreeing(bench, deployment))
    seen = await bench.seen(deployment)
    replica = replace(replica, phase="ready", address=seen.address)
    return deployment.with_process(replica), replica, seen


async def _is_agreeing(bench: Bench, deployment: Deployment) -> bool:
    return (await bench.seen(deployment)).is_agreeing


async def _has_ended(bench: Bench, deployment: Deployment) -> bool:
    return not (await bench.seen(deployment)).is_running


async def test_a_replica_starts_in_a_session_of_its_own_with_secrets_for_us_alone(bench: Bench) -> None:
    deployment, replica, seen = await started(bench)
    assert seen.is_running
    assert seen.is_child_alive
    assert os.getsid(seen.pid) == seen.pid
    files = bench.files(replica)
    assert stat.S_IMODE(files.launch_path.stat().st_mode) == 0o600
    assert files.log_path.exists()
    assert files.locker_pid() == seen.pid
    launch = LaunchFile.model_validate_json(files.launch_path.read_bytes())
    assert (launch.artifact_token, launch.revision) == ("token-1", "fraud-prod.1")
    assert launch.runtime == "native"
    del deployment


async def test_a_replica_inherits_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHANTOM_POSTGRES_DSN", "postgresql://secret@x/y")
    _, _, seen = await started(bench)
    assert "PHANTOM_POSTGRES_DSN" not in psutil.Process(seen.pid).environ()


async def test_a_restarted_deployer_adopts_it(bench: Bench) -> None:
    deployment, _, before = await started(bench)
    bench.again()
    after = await bench.seen(deployment)
    assert after.is_agreeing
    assert after.is_child_alive is None
    assert (after.pid, after.address) == (before.pid, before.address)


async def test_death_is_seen_by_the_freed_lock(bench: Bench) -> None:
    deployment, _, seen = await started(bench)
    bench.again()
    os.kill(seen.pid, signal.SIGKILL)
    await until(lambda: _has_ended(bench, deployment))


async def test_a_second_process_for_the_replica_ends_and_the_first_serves_on(bench: Bench) -> None:
    deployment, replica, before = await started(bench)
    bench.again()
    again = replace(replica, launch_id="l2", phase="starting")
    deployment = deployment.with_process(again)
    bench.files(again).replica_path.rename(bench.folder / "kept.json")
    await bench.backend.launch(deployment, again)
    (bench.folder / "kept.json").rename(bench.files(again).replica_path)

    async def child_ended() -> bool:
        return (await bench.seen(deployment)).is_child_alive is False

    await until(child_ended)
    after = await bench.seen(deployment)
    assert after.is_agreeing
    assert after.pid == before.pid
    assert after.error_code == ""


async def test_a_drained_replica_gets_the_record_and_ends(bench: Bench) -> None:
    deployment, replica, _ = await started(bench)
    await bench.backend.drain(replica, '{"version": 7}')
    assert (await bench.seen(deployment)).is_draining
    await until(lambda: _has_ended(bench, deployment))
    assert (bench.files(replica).folder / "r1.drained").read_text() == '{"version": 7}'
    await bench.backend.forget(replica.id)
    assert bench.backend.present() == []


async def test_a_wrong_drain_key_stops_nobody(bench: Bench) -> None:
    deployment, replica, _ = await started(bench)
    with pytest.raises(PhantomError):
        await bench.backend.drain(replace(replica, drain_key="x" * 32), "")
    assert not (await bench.seen(deployment)).is_draining


@pytest.mark.parametrize(
    ("behaviour", "code", "permanent"),
    [("corrupt.json", "corrupt_model", True), ("busy.json", "registry_unavailable", False)],
)
async def test_a_replica_that_cannot_start_says_why(
    bench: Bench, behaviour: str, code: str, permanent: bool
) -> None:
    deployment, replica = deployment_of(behaviour)
    await bench.backend.launch(deployment, replica)

    async def failed() -> Observation | None:
        seen = await bench.seen(deployment)
        return seen if seen.is_child_alive is False and not seen.is_running else None

    seen = await until(failed)
    assert (seen.error_code, seen.is_permanent) == (code, permanent)


async def test_a_process_that_still_loads_can_be_stopped_after_a_restart(bench: Bench) -> None:
    deployment, replica = deployment_of("slow.json")
    await bench.backend.launch(deployment, replica)
    await until(lambda: bench.files(replica).locker_pid())
    backend = bench.again()
    assert (await bench.seen(deployment)).is_running
    backend.signal(replica.id, signal.SIGTERM)
    await until(lambda: _has_ended(bench, deployment))


async def test_without_governance_the_last_token_is_used_again(bench: Bench) -> None:
    deployment, replica = deployment_of("corrupt.json")
    await bench.backend.launch(deployment, replica)
    bench.tokens.is_away = True
    await bench.backend.launch(deployment, replace(replica, launch_id="l2"))
    launch = bench.files(replica).read_launch()
    assert launch is not None
    assert (launch.launch_id, launch.artifact_token) == ("l2", "token-1")


async def test_an_address_that_another_replica_answers_at_is_not_ours(bench: Bench) -> None:
    deployment, _, _ = await started(bench)
    other = Replica("r2", "fraud-prod.1", drain_key="k" * 32, phase="starting", launch_id="l1")
    files, mine = ReplicaFiles(bench.folder, "r2"), ReplicaFiles(bench.folder, "r1")
    files.replica_path.write_text(mine.replica_path.read_text())
    files.lock_path.write_text("")
    with files.lock_path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seen = (await bench.backend.observe(deployment.with_process(other)))["r2"]
    assert seen.is_running
    assert not seen.is_agreeing


async def test_a_stranger_is_drained_and_its_traces_removed(bench: Bench) -> None:
    deployment, replica, _ = await started(bench)
    backend = bench.again()
    assert backend.present() == [replica.id]
    await backend.dismiss(replica.id)
    await until(lambda: _has_ended(bench, deployment))
    await backend.dismiss(replica.id)
    assert backend.present() == []


async def test_a_start_that_failed_before_there_was_a_lock_leaves_no_secrets_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, replica = deployment_of("model.json")
    monkeypatch.setattr("phantom_deployer.local_backend.spawn", _fail)
    with pytest.raises(OSError, match="no process"):
        await bench.backend.launch(deployment, replica)
    files = bench.files(replica)
    files.unfinished_path.write_text("half a launch file")
    assert not files.lock_path.exists()
    backend = bench.again()
    assert backend.present() == [replica.id]
    await backend.dismiss(replica.id)
    assert backend.present() == []
    assert not files.launch_path.exists()
    assert not files.unfinished_path.exists()


def _fail(files: ReplicaFiles, module: str) -> None:
    raise OSError("no process can be started")


async def test_silence_is_measured_from_the_last_answer(bench: Bench) -> None:
    deployment, _, seen = await started(bench)
    os.kill(seen.pid, signal.SIGSTOP)

    async def silent() -> bool:
        now = await bench.seen(deployment)
        return now.is_running and not now.is_agreeing and now.silent_s > 0.5

    await until(silent)
    os.kill(seen.pid, signal.SIGCONT)
    await until(lambda: _is_agreeing(bench, deployment))
    assert (await bench.seen(deployment)).silent_s < 0.5
