"""The role of a strategy, and what most of them do alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.rollouts.spec import RolloutSpec
from phantom_deployer.domain.rollouts.turn import Turn
from phantom_platform.errors import Refused


class Strategy(Protocol):
    """Each method does what is due by means of the turn, and leaves the rest to the next look."""

    # Whether a failed judgement acts as soon as it is known.
    acts_at_once: bool

    def shares(self, spec: RolloutSpec) -> tuple[int, ...]:
        """The shares of the steps that are planned, basis points."""
        ...

    def prepare(self, turn: Turn) -> None:
        """The candidate was added in this turn: say how many replicas it starts with, if not all."""
        ...

    def begin(self, turn: Turn) -> None:
        """The candidate is ready, replayed and approved: to the first step."""
        ...

    def advance(self, turn: Turn) -> None:
        """Progressing, analysing or promoting: gateways have acknowledged the step, metrics are available, and
        nothing has failed. Goes on where the step has passed."""
        ...

    def fail(self, turn: Turn) -> None:
        """`turn.evidence.verdict` fails, in a state with traffic."""
        ...

    def take_back(self, turn: Turn, reason: str, percent: float) -> None:
        """Change the deployment so that the candidate has `percent` of the traffic at most, in one route version."""
        ...

    def resume(self, turn: Turn) -> None:
        """Somebody ends a pause."""
        ...

    def promote(self, turn: Turn, bp: int | None) -> None:
        """Somebody asks for a share, or for the next step (None). Raises `Refused`."""
        ...


def fail(strategy: Strategy, turn: Turn) -> None:
    """Roll back at once, or wait for a person where rollbacks are not automatic."""
    verdict, auto = turn.evidence.verdict, turn.rollout.spec.auto_rollback
    assert verdict is not None  # it has failed
    if auto.enabled:
        percent = auto.rollback_percentage
        roll_back(strategy, turn, "criterion_failed", verdict.words, criterion=verdict.fired, percent=percent)
    else:
        turn.pause("criterion_failed", verdict.words, criterion=verdict.fired)


def roll_back(
    strategy: Strategy, turn: Turn, code: str, reason: str, *, criterion: str = "", percent: float = 0.0
) -> None:
    """The traffic leaves the candidate, but for `percent`."""
    turn.begin_rollback(code, reason, criterion=criterion)
    strategy.take_back(turn, reason, percent)
    turn.rollout = replace(turn.rollout, rest_bp=turn.deployment.candidate_bp)


def take_back(turn: Turn, reason: str, percent: float) -> None:
    """Of a candidate beside the stable revision."""
    turn.change(
        mechanics.roll_back(
            turn.deployment, remove=False, reason=reason, used=turn.around.used, percent=percent
        )
    )


def resume(turn: Turn) -> None:
    """Who goes on after a failed judgement has taken note of it: what counts begins now."""
    was = turn.rollout.reason_code
    turn.go_on("by_user", "resumed; the step begins anew")
    if was == "criterion_failed":
        turn.forgive()


def refuse_backwards(deployment: str, wanted: str, present: str) -> Refused:
    return Refused(
        f"the rollout of {deployment} is at {present}, and {wanted} is no step forward; roll it back instead",
        code="backwards",
    )
