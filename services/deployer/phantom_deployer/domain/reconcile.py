"""One step from what is to what should be: observed processes in, the deployment's next state and effects out.

A step is safe to repeat and to lose: whatever it has decided is in the returned deployment before any effect is carried
out, and every effect is idempotent by the replica's id. The rule that must never break: a process is told
to stop only once no route names its replica and every route that did is acknowledged without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from phantom_deployer.domain import facts
from phantom_deployer.domain.acknowledgement import Waiting
from phantom_deployer.domain.deployment import CANDIDATE, Deployment, Replica, Revision
from phantom_deployer.domain.facts import Fact
from phantom_statistics.assignment import reallocate


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds."""

    # A process that another deployer spawned may not hold its lock yet.
    start_grace_s: float = 5.0
    # The longest load of a model.
    startup_timeout_s: float = 120.0
    # Starts that fail in a way that another start would repeat, before a revision is given up.
    permanent_attempts: int = 2
    # Starts that fail otherwise, before a revision that never was ready is given up.
    attempts: int = 5
    backoff_s: float = 0.5
    backoff_limit_s: float = 30.0
    # Ready for so long, a replica's earlier deaths no longer count.
    steady_after_s: float = 60.0
    # A process that holds its lock and does not answer for so long is killed.
    unresponsive_s: float = 30.0
    drain_timeout_s: float = 30.0
    # After the drain's own time-out.
    kill_after_s: float = 15.0

    def backoff(self, failures: int) -> timedelta:
        return timedelta(seconds=min(self.backoff_s * 2.0 ** min(failures - 1, 16), self.backoff_limit_s))


@dataclass(frozen=True, slots=True)
class Observation:
    """A replica's process, seen from outside. `launch_id`: the replica's when it was looked at."""

    launch_id: str
    # Its lock is held: it lives. A child of ours may live and not hold it yet.
    is_running: bool
    # It is our child and has not exited; None where it is nobody's child.
    is_child_alive: bool | None = None
    # It answered, as this replica of this revision with these bytes.
    is_agreeing: bool = False
    is_draining: bool = False
    address: str = ""
    pid: int = 0
    # Seconds since it last answered, or since it was first looked at.
    silent_s: float = 0.0
    # It said that it could not start: stable code, message, and whether another start would fail alike.
    error_code: str = ""
    error_message: str = ""
    is_permanent: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """What is to be done to a process, idempotent by replica."""

    kind: Literal["launch", "drain", "terminate", "kill", "forget"]
    replica: Replica


@dataclass(frozen=True)
class Surroundings:
    """What a step depends on beside the deployment."""

    now: datetime
    observations: Mapping[str, Observation]
    # None once no gateway can use a version of that route older than this one.
    waiting: Callable[[str, int], Waiting | None]
    # Revision → running experiment that uses it; None while experiments are not known: then nothing is withdrawn.
    used: Mapping[str, str] | None = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    deployment: Deployment
    facts: tuple[Fact, ...]
    effects: tuple[Effect, ...]


def step(
    deployment: Deployment, around: Surroundings, mint: Callable[[], str], policy: Policy | None = None
) -> Step:
    """The next state. `mint` gives new ids (of replicas, of launches) and secrets."""
    work = _Step(deployment, around, mint, policy or Policy())
    work.watch()
    work.judge()
    work.populate()
    work.start()
    work.stop()
    work.finish()
    return Step(work.deployment, tuple(work.facts), tuple(work.effects))


def departed(replica: Replica, waiting: Callable[[str, int], Waiting | None]) -> Waiting | None:
    """None where every route that named the replica is acknowledged without it."""
    waits = (waiting(route, version) for route, version in replica.departures)
    return next((each for each in waits if each is not None), None)


class _Step:
    def __init__(
        self, deployment: Deployment, around: Surroundings, mint: Callable[[], str], policy: Policy
    ) -> None:
        self.deployment = deployment
        self.facts: list[Fact] = []
        self.effects: list[Effect] = []
        self._around = around
        # Only a leave-taking that is committed keeps other deployments from routing to the replica.
        self._has_left = frozenset(each.id for each in deployment.processes if each.is_leaving)
        self._now = around.now
        self._mint = mint
        self._policy = policy

    # -- what processes do -------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Take over what was observed of each process."""
        for replica in self.deployment.processes:
            seen = self._seen(replica)
            if seen is None or replica.phase in ("pending", "restarting", "failed"):
                continue
            if self._is_dead(replica, seen):
                self._bury(replica, seen)
            elif seen.is_agreeing:
                self._welcome(replica, seen)
            elif seen.is_running and self._is_stuck(replica, seen):
                self.effects.append(Effect("kill", replica))

    def _seen(self, replica: Replica) -> Observation | None:
        """Nothing where the replica was started anew since it was looked at."""
        seen = self._around.observations.get(replica.id)
        return seen if seen is not None and seen.launch_id == replica.launch_id else None

    def _is_dead(self, replica: Replica, seen: Observation) -> bool:
        if seen.is_running or seen.is_child_alive:
            return False
        if seen.is_child_alive is False or replica.phase == "ready" or seen.error_code:
            return True
        return self._since(replica.launched_at) > self._policy.start_grace_s

    def _is_stuck(self, replica: Replica, seen: Observation) -> bool:
        if replica.phase == "starting":
            return self._since(replica.launched_at) > self._policy.startup_timeout_s
        return seen.silent_s > self._policy.unresponsive_s and not replica.is_leaving

    def _bury(self, replica: Replica, seen: Observation) -> None:
        was_steady = replica.phase == "ready" and self._since(replica.ready_at) > self._policy.steady_after_s
        failures = 1 if was_steady else replica.failures + 1
        why = seen.error_message or seen.error_code or "the process ended"
        revision = self.deployment.revision(replica.revision)
        is_new = revision is None or not revision.was_ready
        limit = self._policy.permanent_attempts if seen.is_permanent else self._policy.attempts
        gives_up = is_new and failures >= limit and not replica.is_leaving
        self._set(
            replace(
                replica,
                phase="failed" if gives_up else "restarting",
                address="",
                pid=0,
                ready_at=None,
                failures=failures,
                next_start_at=self._now + self._policy.backoff(failures),
                reason=f"{seen.error_code or 'died'}: {why} (start {failures})",
            )
        )
        if gives_up and revision is not None and revision.phase == "pending":
            self._fail(revision, seen.error_code or "replica_died", why, failures)

    def _fail(self, revision: Revision, code: str, why: str, attempts: int) -> None:
        reason = f"{why} (after {attempts} starts)"
        self.deployment = self.deployment.with_revision(
            replace(revision, phase="failed", error_code=code, reason=reason)
        )
        if revision.id == self.deployment.candidate:
            self.deployment = replace(self.deployment, pending_bp=0)
        self.facts.append(facts.Failed(revision.id, code, reason))

    def _welcome(self, replica: Replica, seen: Observation) -> None:
        if replica.phase == "ready" and replica.address == seen.address:
            return
        if seen.is_draining:
            return
        self._set(
            replace(replica, phase="ready", address=seen.address, pid=seen.pid, ready_at=self._now, reason="")
        )

    # -- what revisions become ---------------------------------------------------------------------------------------

    def judge(self) -> None:
        """A revision is ready once all its replicas are; then the candidate gets the share that was asked for.

        One that is to have none yet is not ready.
        """
        for revision in self.deployment.revisions:
            serving = len(self.deployment.serving(revision.id))
            if revision.phase != "pending" or serving < max(self.deployment.wanted(revision), 1):
                continue
            self.deployment = self.deployment.with_revision(replace(revision, phase="ready", was_ready=True))
            self.facts.append(facts.BecameReady(revision.id, f"{serving} of {serving} replicas are ready"))
        candidate, bp = self.deployment.candidate_revision, self.deployment.pending_bp
        stable = self.deployment.stable_revision
        if (
            not bp
            or candidate is None
            or candidate.phase != "ready"
            or stable is None
            or not stable.was_ready
        ):
            return
        allocations = reallocate(self.deployment.allocations, {CANDIDATE: bp})
        previous = self.deployment.candidate_bp
        self.deployment = replace(self.deployment, allocations=allocations, pending_bp=0)
        self.facts.append(facts.WeightSet(candidate.id, bp, previous, "asked for when it was deployed"))

    # -- how many replicas -------------------------------------------------------------------------------------------

    def populate(self) -> None:
        """Replicas for what is live; leave-taking for what is not."""
        for revision in self.deployment.revisions:
            staying = [r for r in self.deployment.replicas_of(revision.id) if not r.is_leaving]
            if revision.is_live:
                self._resize(revision, staying)
            elif revision.phase == "failed" or self._is_free(revision):
                for replica in staying:
                    self._set(replace(replica, is_leaving=True))

    def _is_free(self, revision: Revision) -> bool:
        """A revision that no client was ever routed to is in no experiment."""
        used = self._around.used
        return not revision.was_ready or (used is not None and revision.id not in used)

    def _resize(self, revision: Revision, staying: list[Replica]) -> None:
        wanted = self.deployment.wanted(revision)
        for _ in range(wanted - len(staying)):
            self._set(Replica(id=self._mint(), revision=revision.id, drain_key=self._mint() + self._mint()))
        # Those that serve nobody go first, then the youngest.
        by_worth = sorted(staying, key=lambda each: (not each.is_serving, each.id))
        for replica in by_worth[wanted:]:
            self._set(replace(replica, is_leaving=True))

    def start(self) -> None:
        """Start what is wanted and due."""
        for replica in self.deployment.processes:
            is_due = replica.next_start_at is None or replica.next_start_at <= self._now
            if replica.phase not in ("pending", "restarting") or replica.is_leaving or not is_due:
                continue
            is_restart = replica.phase == "restarting"
            started = replace(
                replica,
                phase="starting",
                launch_id=self._mint(),
                launched_at=self._now,
                restarts=replica.restarts + is_restart,
                next_start_at=None,
            )
            self._set(started)
            self.effects.append(Effect("launch", started))
            if is_restart:
                self.facts.append(
                    facts.Restarted(replica.revision, replica.id, started.restarts, replica.reason)
                )

    # -- leave-taking ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain what is leaving, where the acknowledgements allow it; drop what has ended."""
        for replica in self.deployment.processes:
            if not replica.is_leaving:
                continue
            if self._has_ended(replica):
                self.deployment = self.deployment.without_process(replica.id)
                self.effects.append(Effect("forget", replica))
            elif replica.id in self._has_left and not replica.is_routed:
                self._drain(replica)

    def _has_ended(self, replica: Replica) -> bool:
        if replica.phase in ("pending", "restarting", "failed"):
            return True
        seen = self._seen(replica)
        return seen is not None and self._is_dead(replica, seen)

    def _drain(self, replica: Replica) -> None:
        if departed(replica, self._around.waiting) is not None:
            return
        is_first = replica.drain_sent_at is None
        if is_first:
            replica = replace(replica, drain_sent_at=self._now, reason="told to stop")
            self._set(replica)
        seen = self._seen(replica)
        if seen is None:
            return
        limit = self._policy.drain_timeout_s + self._policy.kill_after_s
        if self._since(replica.drain_sent_at) > limit:
            self.effects.append(Effect("kill", replica))
        elif seen.is_agreeing and not seen.is_draining:
            self.effects.append(Effect("drain", replica))
        elif is_first and replica.phase == "starting":
            # It still loads: no gateway has a stream that a drain could speak on. Once: a second signal would force it.
            self.effects.append(Effect("terminate", replica))

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """A withdrawing revision without replicas is withdrawn; a deployment of withdrawn ones is gone."""
        for revision in self.deployment.revisions:
            if revision.phase == "withdrawing" and not self.deployment.replicas_of(revision.id):
                self.deployment = self.deployment.with_revision(replace(revision, phase="withdrawn"))
                self.facts.append(facts.Withdrawn(revision.id, revision.reason))
        is_empty = all(each.phase == "withdrawn" for each in self.deployment.revisions)
        if self.deployment.is_deleting and is_empty and not self.deployment.is_deleted:
            self.deployment = replace(self.deployment, is_deleted=True)
            self.facts.append(facts.Deleted())

    def _set(self, replica: Replica) -> None:
        self.deployment = self.deployment.with_process(replica)

    def _since(self, moment: datetime | None) -> float:
        return (self._now - moment).total_seconds() if moment is not None else 0.0
