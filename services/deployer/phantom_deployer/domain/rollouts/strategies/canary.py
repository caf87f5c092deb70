"""Canary: step by step from a small share to the target, each step judged."""

from __future__ import annotations

from dataclasses import replace

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.rollouts import plan
from phantom_deployer.domain.rollouts.model import Rollout
from phantom_deployer.domain.rollouts.spec import CanaryPlan, RolloutSpec
from phantom_deployer.domain.rollouts.strategies import strategy as common
from phantom_deployer.domain.rollouts.turn import Turn
from phantom_statistics.assignment import BUCKETS


class Canary:
    """At 100 % the stable revision stays as it is, warm, until the rollback window is over."""

    acts_at_once = True

    def shares(self, spec: RolloutSpec) -> tuple[int, ...]:
        return plan.shares(_plan(spec))

    def prepare(self, turn: Turn) -> None:
        """It starts with all its replicas."""

    def begin(self, turn: Turn) -> None:
        _to_step(turn, 0, "ready", f"{turn.rollout.candidate} is ready")

    def advance(self, turn: Turn) -> None:
        rollout, evidence = turn.rollout, turn.evidence
        if rollout.state == "promoting" and not rollout.window_s:
            _complete(turn)
            return
        ends, known = rollout.step_ends_at, evidence.closed_until
        if ends is None or known is None or known < ends:
            return
        if _has_no_traffic(turn):
            turn.pause(
                "no_data",
                f"the candidate got no request in {rollout.step_length_s:g} s at {rollout.bp / 100:g} %; "
                "it goes on when there is traffic",
            )
        elif rollout.state == "promoting":
            _complete(turn)
        else:
            self._judge(turn)

    def _judge(self, turn: Turn) -> None:
        verdict = turn.evidence.verdict
        if verdict is not None and verdict.verdict == "pass":
            self._next(turn, "passed", f"step {turn.rollout.step + 1} passed: {verdict.words}")
        elif turn.rollout.state == "progressing":
            code = verdict.verdict if verdict else "not_enough_data"
            words = verdict.words if verdict else "nothing is judged yet"
            turn.move("analysing", code, f"the interval is over, and the step has not passed yet: {words}")

    def _next(self, turn: Turn, code: str, reason: str) -> None:
        rollout = turn.rollout
        if rollout.step + 1 >= len(rollout.steps):
            turn.pause(
                "target_reached", f"{reason}; {rollout.bp / 100:g} % is the target; resume to go on to 100 %"
            )
        elif rollout.bp in plan.pauses(_plan(rollout.spec)):
            turn.pause("step", f"{reason}; it was asked to wait at {rollout.bp / 100:g} %")
        else:
            _to_step(turn, rollout.step + 1, code, reason)

    def fail(self, turn: Turn) -> None:
        common.fail(self, turn)

    def take_back(self, turn: Turn, reason: str, percent: float) -> None:
        common.take_back(turn, reason, percent)

    def resume(self, turn: Turn) -> None:
        rollout = turn.rollout
        if rollout.reason_code == "step":
            _to_step(turn, rollout.step + 1, "by_user", "resumed")
        elif rollout.reason_code == "target_reached":
            onward = plan.onward(_following(rollout), _plan(rollout.spec))
            _go_on_with(turn, onward, "resumed beyond the target")
        else:
            common.resume(turn)

    def promote(self, turn: Turn, bp: int | None) -> None:
        rollout = turn.rollout
        if bp is None and rollout.bp == BUCKETS:
            _complete(
                turn, "by_user", f"completed by {turn.around.actor} before the rollback window was over"
            )
            return
        wanted = _next_share(rollout) if bp is None else bp
        if wanted <= rollout.bp:
            raise common.refuse_backwards(
                rollout.deployment_id, f"{wanted / 100:g} %", f"{rollout.bp / 100:g} %"
            )
        target = plan.bp(_plan(rollout.spec).target_percentage)
        steps = plan.onward(wanted, _plan(rollout.spec), until=max(wanted, target))
        _go_on_with(turn, steps, f"promoted to {wanted / 100:g} %")


def _go_on_with(turn: Turn, shares: tuple[int, ...], reason: str) -> None:
    """These are the steps from the next one on."""
    rollout = turn.rollout
    was_failed = rollout.reason_code == "criterion_failed"
    turn.rollout = replace(rollout, steps=(*rollout.steps[: rollout.step + 1], *shares))
    _to_step(turn, rollout.step + 1, "by_user", reason)
    if was_failed:
        turn.forgive()


def _to_step(turn: Turn, step: int, code: str, reason: str) -> None:
    bp = turn.rollout.steps[step]
    turn.share(step, bp, code, f"{reason}; step {step + 1} of {len(turn.rollout.steps)}: {bp / 100:g} %")


def _next_share(rollout: Rollout) -> int:
    if rollout.step + 1 < len(rollout.steps):
        return rollout.steps[rollout.step + 1]
    return _following(rollout)


def _following(rollout: Rollout) -> int:
    return min(rollout.bp + plan.bp(_plan(rollout.spec).increment_percentage), BUCKETS)


def _has_no_traffic(turn: Turn) -> bool:
    """None since the clock started, or none for as long as a step, in one that has not passed."""
    evidence, rollout = turn.evidence, turn.rollout
    if not evidence.requests or evidence.last_traffic_at is None:
        return True
    has_passed = rollout.state == "promoting" or (
        evidence.verdict is not None and evidence.verdict.verdict == "pass"
    )
    silent_s = (turn.now - evidence.last_traffic_at).total_seconds()
    return not has_passed and silent_s > rollout.step_length_s + SETTLING_S


# Windows are published so much later than they end, at most, s.
SETTLING_S = 30.0


def _complete(turn: Turn, code: str = "completed", reason: str = "") -> None:
    window = f"{turn.rollout.window_s:g} s at 100 % without a failed judgement"
    turn.change(mechanics.complete(turn.deployment, turn.around.used))
    turn.end("succeeded", code, reason or f"{turn.rollout.candidate} is the stable revision: {window}")


def _plan(spec: RolloutSpec) -> CanaryPlan:
    assert spec.canary is not None  # `check` saw to it
    return spec.canary
