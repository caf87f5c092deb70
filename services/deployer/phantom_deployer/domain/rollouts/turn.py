"""The changes that one look, or one command, makes to a rollout and its deployment. All commit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from phantom_deployer.domain import facts, rollout
from phantom_deployer.domain.acknowledgement import Waiting
from phantom_deployer.domain.deployment import Deployment, Revision
from phantom_deployer.domain.facts import Fact
from phantom_deployer.domain.rollout import Used
from phantom_deployer.domain.rollouts.model import (
    Figures,
    Judgement,
    ReplayReport,
    Rollout,
    ShadowReport,
    Span,
    State,
    Transition,
)
from phantom_deployer.domain.values import DEPLOYER
from phantom_statistics.assignment import BUCKETS


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at a look. Without a judgement there is nothing to judge yet."""

    # Why nothing can be known; empty where it can.
    unavailable: str = ""
    # Windows that end by then are published.
    closed_until: datetime | None = None
    verdict: Judgement | None = None
    # Of the candidate, since the clock of its step started.
    requests: int = 0
    # End of the newest window in which it had traffic, since then.
    last_traffic_at: datetime | None = None
    figures: Figures = field(default_factory=Figures)
    shadow: ShadowReport | None = None


@dataclass(frozen=True)
class Around:
    """What a turn depends on beside rollout and deployment."""

    now: datetime
    # (route key, version) → what is missing until every gateway has applied it; None where nothing is.
    waiting: Callable[[str, int], Waiting | None]
    used: Used
    evidence: Evidence = field(default_factory=Evidence)
    actor: str = DEPLOYER


class Turn:
    """`rollout` and `deployment` as they are after what was done so far; `moves` and `facts` say what happened."""

    def __init__(self, rollout: Rollout, deployment: Deployment, around: Around) -> None:
        self.rollout = rollout
        self.deployment = deployment
        self.around = around
        self.facts: list[Fact] = []
        self.moves: list[Transition] = []

    @property
    def now(self) -> datetime:
        return self.around.now

    @property
    def evidence(self) -> Evidence:
        return self.around.evidence

    @property
    def candidate(self) -> Revision | None:
        """The revision, while the deployment has it as its candidate, or as its stable one."""
        wanted = self.rollout.candidate
        if wanted not in (self.deployment.candidate, self.deployment.stable):
            return None
        return self.deployment.revision(wanted)

    # -- states ------------------------------------------------------------------------------------------------------

    def move(self, state: State, code: str, reason: str, *, criterion: str = "") -> None:
        """To that state, or from step to step within it."""
        before = self.rollout
        move = Transition(
            number=before.transitions + 1,
            from_state=before.state if before.transitions else "",
            to_state=state,
            reason_code=code,
            reason=reason,
            actor=self.around.actor,
            at=self.now,
            step=before.step + 1,
            bp=before.bp,
            criterion=criterion,
        )
        self.moves.append(move)
        self.facts.append(
            facts.RolloutMoved(
                before.id,
                before.spec.strategy,
                before.candidate,
                move.from_state,
                move.to_state,
                code,
                criterion,
                move.step,
                move.bp,
                reason,
            )
        )
        self.rollout = replace(
            before,
            state=state,
            reason_code=code,
            reason=reason,
            since=self.now,
            transitions=move.number,
            held=before.held if state == "paused" else None,
        )

    def pause(self, code: str, reason: str, *, criterion: str = "") -> None:
        """Holds its share; remembers what it was doing."""
        held = self.rollout.held if self.rollout.state == "paused" else self.rollout.state
        self.rollout = replace(self.rollout, held="progressing" if held == "analysing" else held)
        self.move("paused", code, reason, criterion=criterion)

    def go_on(self, code: str, reason: str) -> None:
        """Out of a pause, into what it was doing; the step's clock begins anew."""
        held = self.rollout.held or "progressing"
        self.restart_clock()
        self.move(held, code, reason)

    def go_on_as_it_was(self, code: str, reason: str) -> None:
        """Out of a pause, in the middle of the step: all of its evidence counts."""
        self.move(self.rollout.held or "progressing", code, reason)

    def end(self, state: State, code: str, reason: str, *, criterion: str = "") -> None:
        self.move(state, code, reason, criterion=criterion)
        self.close_span()
        self.rollout = replace(self.rollout, ended_at=self.now)

    def fail(self, code: str, reason: str, *, criterion: str = "") -> None:
        """The end of one that had no traffic: the candidate goes."""
        self.remove(reason)
        self.end("failed", code, reason, criterion=criterion)

    # -- shares ------------------------------------------------------------------------------------------------------

    def share(self, step: int, bp: int, code: str, reason: str) -> None:
        """To that step, with that share, in one route version. Below 100 % it progresses, there it is promoted."""
        self.change(rollout.set_weight(self.deployment, bp))
        self.open_span(step, bp)
        self.move("promoting" if bp == BUCKETS else "progressing", code, reason)

    def open_span(self, step: int, bp: int) -> None:
        """The candidate holds another share from now on; the clock starts once gateways have acknowledged it."""
        self.close_span()
        span = Span(step, bp, set_at=self.now)
        self.rollout = replace(self.rollout, step=step, spans=(*self.rollout.spans, span))

    def close_span(self) -> None:
        """Evidence of what comes later counts elsewhere, or nowhere."""
        span = self.rollout.span
        if span is not None:
            self._replace_span(replace(span, ended_at=self.now, last_version=self.deployment.route_version))

    def start_clock(self) -> None:
        """Every gateway has acknowledged the step's share."""
        span = self.rollout.span
        if span is not None and span.started_at is None:
            self._replace_span(replace(span, started_at=self.now))

    def restart_clock(self) -> None:
        """The same share, measured from now on. Earlier evidence still counts against the stable revision."""
        span = self.rollout.span
        if span is None or span.started_at is None:
            return
        self.close_span()
        spans = self.rollout.spans
        if self._continues_the_one_before():
            whole = replace(spans[-2], ended_at=spans[-1].ended_at, last_version=spans[-1].last_version)
            spans = (*spans[:-2], whole)
        again = replace(span, started_at=self.now)
        self.rollout = replace(self.rollout, spans=(*spans, again))

    def _continues_the_one_before(self) -> bool:
        """Whether the last span only began its clock anew, so that both are one: however often that happens, a share
        has two spans at most, and one more each time that somebody forgave a failure.
        """
        *_, before, span = (None, None, *self.rollout.spans)
        if before is None or span is None or len(self.rollout.spans) - 2 < self.rollout.judged_from:
            return False
        return (before.step, before.bp, before.first_version) == (
            span.step,
            span.bp,
            span.first_version,
        ) and before.ended_at == span.started_at

    def forgive(self) -> None:
        """What was judged so far does not count any more."""
        self.rollout = replace(self.rollout, judged_from=max(len(self.rollout.spans) - 1, 0), fired="")

    def _replace_span(self, span: Span) -> None:
        self.rollout = replace(self.rollout, spans=(*self.rollout.spans[:-1], span))

    # -- the deployment ----------------------------------------------------------------------------------------------

    def change(self, outcome: rollout.Outcome) -> None:
        """Take over what the deployment's own rules made of it."""
        self.deployment, happened = outcome
        self.facts.extend(happened)

    def begin_rollback(self, code: str, reason: str, *, criterion: str = "") -> None:
        """The strategy takes the traffic away in the same turn; the state lasts until gateways have acknowledged it."""
        self.move("rolling_back", code, reason, criterion=criterion)
        self.close_span()
        self.rollout = replace(self.rollout, rollback_at=self.now, rollback_version=0, fired=criterion)

    def remove(self, reason: str) -> None:
        """The candidate is withdrawn."""
        if self.deployment.candidate == self.rollout.candidate and not self.deployment.is_deleting:
            self.change(rollout.roll_back(self.deployment, remove=True, reason=reason, used=self.around.used))


def settled(rollout: Rollout, route_version: int) -> Rollout:
    """With the route version that the turn's changes came out as."""
    spans = tuple(
        replace(each, first_version=each.first_version or route_version) if each.ended_at is None else each
        for each in rollout.spans
    )
    taken_back = rollout.rollback_at is not None and not rollout.rollback_version
    return replace(
        rollout,
        spans=spans,
        rollback_version=route_version if taken_back else rollout.rollback_version,
    )


# A note of why the pilot could not take it on, as it was told: `<code>: <words>`.
WAITS = "waits"


def waiting_for(rollout: Rollout, why: str) -> Rollout:
    """A look was refused for that reason, which holds until one is not; empty: nothing is in the way any more."""
    notes = {name: text for name, text in rollout.notes.items() if name != WAITS}
    return replace(rollout, notes=notes | {WAITS: why} if why else notes)


def with_replay(rollout: Rollout, report: ReplayReport) -> Rollout:
    """The look that follows judges it."""
    return replace(rollout, replay=report)
