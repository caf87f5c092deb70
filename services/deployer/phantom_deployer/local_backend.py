"""Replicas as processes of this machine: `python -m phantom_model_server --launch <file>`.

They are sessions of their own, with files for output and no pipe to us, so they outlive the deployer; it finds them
again by their locks. Nothing here decides anything: it looks, and it does what it is told, both any number of times.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from phantom_contracts.launch import EXIT_FAILED, EXIT_LOCKED, Artifact, LaunchFile, ReplicaFile, Runtime
from phantom_deployer.domain.deployment import Deployment, Replica, Revision
from phantom_deployer.domain.reconcile import Observation
from phantom_deployer.replica_calls import Described, ReplicaCalls
from phantom_deployer.replica_files import ReplicaFiles, known_replicas
from phantom_platform.clock import Clock
from phantom_platform.errors import PhantomError
from phantom_platform.model_servers import spawn
from phantom_platform.telemetry import logs

log = logs.get(__name__)


class Tokens(Protocol):
    """Governance."""

    async def issue(self, workspace: str, digest: str, subject: str) -> str: ...


@dataclass(frozen=True)
class LocalSettings:
    """What every launch file says alike."""

    data_dir: Path
    registry_address: str
    drain_timeout_s: float = 30.0
    allow_pickle: bool = False
    threads: int = 1
    runtime: Runtime = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    otlp_endpoint: str | None = None
    model_server_module: str = "phantom_model_server"


@dataclass
class _Memory:
    """What is known of a replica's process beyond its files."""

    child: subprocess.Popen[bytes] | None = None
    launch_id: str = ""
    heard_at: float = field(default=0.0)


class LocalBackend:
    """Looks at processes, starts and stops them."""

    def __init__(self, settings: LocalSettings, tokens: Tokens, clock: Clock, calls: ReplicaCalls) -> None:
        self._settings = settings
        self._tokens = tokens
        self._clock = clock
        self._calls = calls
        self._memory: dict[str, _Memory] = {}

    # -- looking -----------------------------------------------------------------------------------------------------

    async def observe(self, deployment: Deployment) -> dict[str, Observation]:
        """Every started replica as it is now."""
        started = [each for each in deployment.processes if each.launch_id]
        revisions = {each.id: each for each in deployment.revisions}
        found = await asyncio.gather(*(self._look(each, revisions.get(each.revision)) for each in started))
        return {each.id: seen for each, seen in zip(started, found, strict=True)}

    async def _look(self, replica: Replica, revision: Revision | None) -> Observation:
        files, memory = self._files(replica.id), self._remember(replica)
        is_running = files.is_locked()
        status = memory.child.poll() if memory.child else None
        said = files.read_replica()
        described = None
        if is_running and said is not None and said.state == "ready":
            described = await self._calls.describe(replica.id, said.address)
        is_agreeing = described is not None and _agrees(described, replica, revision)
        now = self._clock.monotonic()
        if is_agreeing:
            memory.heard_at = now
        code, message, is_permanent = _failure(replica, said, status, files.log_path)
        return Observation(
            launch_id=replica.launch_id,
            is_running=is_running,
            is_child_alive=None if memory.child is None else status is None,
            is_agreeing=is_agreeing,
            is_draining=described is not None and described.state == "draining",
            address=said.address if said else "",
            pid=said.pid if said else 0,
            silent_s=now - memory.heard_at,
            error_code=code,
            error_message=message,
            is_permanent=is_permanent,
        )

    def _remember(self, replica: Replica) -> _Memory:
        memory = self._memory.get(replica.id)
        if memory is None or memory.launch_id != replica.launch_id:
            memory = _Memory(launch_id=replica.launch_id, heard_at=self._clock.monotonic())
            self._memory[replica.id] = memory
        return memory

    # -- doing -------------------------------------------------------------------------------------------------------

    async def launch(self, deployment: Deployment, replica: Replica) -> None:
        """Write the launch file, then spawn. A second process for the replica finds the lock taken and ends."""
        revision = deployment.revision(replica.revision)
        if revision is None:
            return
        files = self._files(replica.id)
        token = await self._token(deployment.workspace, revision, replica, files)
        files.write_launch(self._launch_file(deployment, revision, replica, token))
        child = await asyncio.to_thread(spawn, files, self._settings.model_server_module)
        memory = self._remember(replica)
        memory.child = child
        log.info(
            "replica started",
            action="replica_started",
            replica=replica.id,
            revision=revision.id,
            pid=child.pid,
            restarts=replica.restarts,
        )

    async def drain(self, replica: Replica, record_json: str) -> None:
        """Tell it to stop, with the route record that no longer names it."""
        timeout_ms = round(self._settings.drain_timeout_s * 1000)
        await self._calls.drain(replica.id, replica.address, replica.drain_key, record_json, timeout_ms)
        log.info("replica drains", action="replica_drains", replica=replica.id, revision=replica.revision)

    def signal(self, replica_id: str, number: signal.Signals) -> None:
        """Send a signal to whoever holds the replica's lock, or to the child that does not hold it yet."""
        memory = self._memory.get(replica_id)
        pid = self._files(replica_id).locker_pid()
        if not pid and memory is not None and memory.child is not None and memory.child.poll() is None:
            pid = memory.child.pid
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def forget(self, replica_id: str) -> None:
        """The replica has ended and is not wanted again."""
        self._memory.pop(replica_id, None)
        await self._calls.forget(replica_id)
        self._files(replica_id).remove()

    def present(self) -> list[str]:
        """Ids of all replicas that left traces here, running or not."""
        return known_replicas(self._settings.data_dir)

    async def dismiss(self, replica_id: str) -> None:
        """Drain a process that nobody knows; remove what one that has ended left behind."""
        files = self._files(replica_id)
        if not files.is_locked():
            files.remove()
            return
        log.warning("unknown replica is told to stop", action="stranger_drains", replica=files.replica_id)
        launch, said = files.read_launch(), files.read_replica()
        try:
            if launch is None or said is None or not said.address:
                self.signal(files.replica_id, signal.SIGTERM)
            else:
                await self._calls.drain(files.replica_id, said.address, launch.drain_key, "", 30_000)
        except PhantomError:
            self.signal(files.replica_id, signal.SIGTERM)

    async def close(self) -> None:
        """Let go of connections. Processes go on."""
        await self._calls.close()

    # -- starting ----------------------------------------------------------------------------------------------------

    async def _token(self, workspace: str, revision: Revision, replica: Replica, files: ReplicaFiles) -> str:
        """A fresh one; else the last one: what is cached needs none, and governance may be away."""
        try:
            return await self._tokens.issue(workspace, revision.model.digest, f"replica-{replica.id}")
        except PhantomError as error:
            log.warning("replica starts without a new token", action="token_missing", replica=replica.id,
                        reason=str(error))  # fmt: skip
            last = files.read_launch()
            return last.artifact_token if last else ""

    def _launch_file(
        self, deployment: Deployment, revision: Revision, replica: Replica, token: str
    ) -> LaunchFile:
        settings, files, model = self._settings, self._files(replica.id), revision.model
        return LaunchFile(
            replica_id=replica.id,
            launch_id=replica.launch_id,
            workspace=deployment.workspace,
            deployment_id=deployment.id,
            revision=revision.id,
            model_id=model.model_id,
            model_version=model.version,
            artifact=Artifact(
                digest=model.digest,
                file_name=model.file_name,
                framework=model.framework,
                size_bytes=model.size_bytes,
            ),
            model_schema=model.model_schema,
            artifacts_dir=settings.data_dir / "artifacts",
            download_dir=settings.data_dir / "downloads",
            registry_address=settings.registry_address,
            artifact_token=token,
            lock_path=files.lock_path,
            replica_path=files.replica_path,
            drain_key=replica.drain_key,
            drain_timeout_s=settings.drain_timeout_s,
            allow_pickle=settings.allow_pickle,
            threads=settings.threads,
            runtime=settings.runtime,
            log_level=settings.log_level,
            otlp_endpoint=settings.otlp_endpoint,
        )

    def _files(self, replica_id: str) -> ReplicaFiles:
        return ReplicaFiles(self._settings.data_dir, replica_id)


def _agrees(described: Described, replica: Replica, revision: Revision | None) -> bool:
    """It is this replica, of this revision, with these bytes; not one that took over its address."""
    is_digest_right = revision is None or described.digest == revision.model.digest
    is_self = described.replica_id == replica.id and described.revision == replica.revision
    return is_self and is_digest_right and described.state in ("ready", "draining")


def _failure(
    replica: Replica, said: ReplicaFile | None, status: int | None, log_path: Path
) -> tuple[str, str, bool]:
    """(code, message, whether another start would fail alike) of a process that could not start."""
    is_permanent = status == EXIT_FAILED
    if said is not None and said.launch_id == replica.launch_id and said.state == "failed":
        return said.error_code, said.error_message, is_permanent
    if status is None or status in (0, EXIT_LOCKED):
        return "", "", False
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return "process_ended", f"the model server ended with {how}; see {log_path}", is_permanent
