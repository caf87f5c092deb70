"""How a deployment is, in a word and in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from phantom_deployer.domain.acknowledgement import Waiting
from phantom_deployer.domain.deployment import Deployment, Replica, Revision
from phantom_deployer.domain.reconcile import departed


@dataclass(frozen=True, slots=True)
class Status:
    """A phase as the proto lists them, and why."""

    phase: str
    reason: str = ""


@dataclass(frozen=True)
class Look:
    """A deployment at a moment; `waiting` as in `Surroundings`."""

    deployment: Deployment
    now: datetime
    waiting: Callable[[str, int], Waiting | None]

    def overall(self) -> Status:
        deployment = self.deployment
        stable, candidate = deployment.stable_revision, deployment.candidate_revision
        if deployment.is_deleting:
            return Status("deleting", self._leaving() or "nearly done")
        if stable is None or stable.phase == "failed":
            return Status("failed", stable.reason if stable else "it has no revision")
        if not stable.was_ready:
            return Status("pending", self._progress(stable))
        if len(deployment.serving(stable.id)) < deployment.replicas:
            return Status("degraded", self._progress(stable))
        if candidate is not None and candidate.phase in ("pending", "ready"):
            return self._rollout(candidate)
        notes = [self._leaving()]
        if candidate is not None:
            verb = "failed" if candidate.phase == "failed" else "was rolled back"
            notes.insert(0, f"{candidate.id} {verb}: {candidate.reason}; {stable.id} serves")
        return Status("ready", "; ".join(each for each in notes if each))

    def revision(self, revision: Revision) -> Status:
        replicas = self.deployment.replicas_of(revision.id)
        if revision.phase == "pending":
            phase = "starting" if any(each.launch_id for each in replicas) else "pending"
            return Status(phase, _joined(revision.reason, self._progress(revision)))
        if revision.phase == "withdrawing":
            return Status("withdrawing", _joined(revision.reason, self._words(replicas)))
        return Status(revision.phase, revision.reason)

    def replica(self, replica: Replica) -> Status:
        if replica.is_leaving:
            return Status("draining", self._farewell(replica))
        if replica.phase == "starting":
            seconds = (self.now - replica.launched_at).total_seconds() if replica.launched_at else 0.0
            return Status("starting", _joined(replica.reason, f"starting for {seconds:.0f} s"))
        if replica.phase == "pending":
            return Status("starting", "about to start")
        if replica.phase == "restarting":
            left = (replica.next_start_at - self.now).total_seconds() if replica.next_start_at else 0.0
            return Status("restarting", _joined(replica.reason, f"starts again in {max(left, 0):.1f} s"))
        return Status(replica.phase, replica.reason)

    def _farewell(self, replica: Replica) -> str:
        if replica.is_routed:
            return "about to leave the route"
        waiting = departed(replica, self.waiting)
        if waiting is not None:
            return waiting.reason
        if replica.drain_sent_at is None:
            return "about to be told to stop"
        return f"told to stop {(self.now - replica.drain_sent_at).total_seconds():.1f} s ago"

    def _rollout(self, candidate: Revision) -> Status:
        if candidate.phase == "pending":
            return Status("progressing", self._progress(candidate))
        share = (
            f"{candidate.id} (version {candidate.model.version}) has {self.deployment.candidate_bp / 100:g} %"
        )
        if len(self.deployment.serving(candidate.id)) < self.deployment.replicas:
            return Status("degraded", _joined(share, self._progress(candidate)))
        return Status("progressing", share)

    def _progress(self, revision: Revision) -> str:
        serving = len(self.deployment.serving(revision.id))
        others = (each for each in self.deployment.replicas_of(revision.id) if not each.is_serving)
        counted = f"{serving} of {self.deployment.replicas} replicas of {revision.id} are ready"
        return _joined(counted, self._words(others))

    def _leaving(self) -> str:
        return self._words(each for each in self.deployment.processes if each.is_leaving)

    def _words(self, replicas: Iterable[Replica]) -> str:
        said = ((each.id, self.replica(each)) for each in replicas)
        return "; ".join(f"replica {name} {status.phase}: {status.reason}" for name, status in said)


def _joined(*parts: str) -> str:
    return "; ".join(each for each in parts if each)
