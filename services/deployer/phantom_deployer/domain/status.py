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
        if len(deployment.serving(stable.id)) < deployment.wanted(stable):
            return Status("degraded", self._progress(stable))
        if candidate is not None and candidate.phase in ("pending", "ready"):
            return self._rollout(candidate)
        return Status("ready", _joined(self._verdict(), self._standby(), self._leaving()))

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

    def _verdict(self) -> str:
        """What became of a candidate that is not on its way any more."""
        candidate, stable = self.deployment.candidate_revision, self.deployment.stable
        if candidate is None:
            return ""
        if candidate.phase == "failed":
            return f"{candidate.id} failed: {candidate.reason}; {stable} serves"
        bp = self.deployment.candidate_bp
        rest = f", {candidate.id} keeps {bp / 100:g} %" if bp else ""
        return f"{candidate.id} was rolled back: {candidate.reason}; {stable} serves{rest}"

    def _standby(self) -> str:
        standby = self.deployment.standby_revision
        if standby is None:
            return ""
        words = f"{standby.id} (version {standby.model.version}) stays warm, to be switched back to"
        if len(self.deployment.serving(standby.id)) < self.deployment.wanted(standby):
            return _joined(words, self._progress(standby))
        return words

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
        shadow, name = self.deployment.shadow, f"{candidate.id} (version {candidate.model.version})"
        if shadow is not None:
            share = f"{name} answers copies of {shadow.bp / 100:g} % for nobody"
        else:
            share = f"{name} has {self.deployment.candidate_bp / 100:g} %"
        if len(self.deployment.serving(candidate.id)) < self.deployment.wanted(candidate):
            return Status("degraded", _joined(share, self._progress(candidate)))
        return Status("progressing", share)

    def _progress(self, revision: Revision) -> str:
        serving = len(self.deployment.serving(revision.id))
        others = (each for each in self.deployment.replicas_of(revision.id) if not each.is_serving)
        counted = f"{serving} of {self.deployment.wanted(revision)} replicas of {revision.id} are ready"
        return _joined(counted, self._words(others))

    def _leaving(self) -> str:
        return self._words(each for each in self.deployment.processes if each.is_leaving)

    def _words(self, replicas: Iterable[Replica]) -> str:
        said = ((each.id, self.replica(each)) for each in replicas)
        return "; ".join(f"replica {name} {status.phase}: {status.reason}" for name, status in said)


def _joined(*parts: str) -> str:
    return "; ".join(each for each in parts if each)
