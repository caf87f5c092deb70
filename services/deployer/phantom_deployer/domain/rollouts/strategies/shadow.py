"""Shadow: copies of live calls, whose answers are compared and never returned. The candidate goes in the end."""

from __future__ import annotations

from datetime import timedelta

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.rollouts import plan
from phantom_deployer.domain.rollouts.model import ShadowReport
from phantom_deployer.domain.rollouts.spec import RolloutSpec, ShadowPlan
from phantom_deployer.domain.rollouts.strategies import strategy as common
from phantom_deployer.domain.rollouts.turn import Turn
from phantom_platform.errors import Refused
from phantom_statistics.rollouts import Finding

# Copies are paired with answers so much later, at most.
PAIRED_AFTER = timedelta(seconds=10)
# Criteria that are limits of its own.
LIMITS = frozenset({"error_rate_threshold", "latency_p95_threshold", "distribution_distance"})


class Shadow:
    """Judged once, at the end: it harms nobody meanwhile, and agreement looked at earlier takes chance for a
    difference. Limits that were set can fail it; comparisons with the stable revision are reported.
    """

    acts_at_once = False

    def shares(self, spec: RolloutSpec) -> tuple[int, ...]:
        """It has no share of its own."""
        return ()

    def prepare(self, turn: Turn) -> None:
        """It starts with all its replicas."""

    def begin(self, turn: Turn) -> None:
        rollout, asked = turn.rollout, _plan(turn.rollout.spec)
        bp = plan.bp(asked.percentage)
        turn.change(mechanics.set_shadow(turn.deployment, rollout.candidate, bp, turn.deployment.salt))
        turn.open_span(0, 0)
        length = f" for {asked.duration_s:g} s" if asked.duration_s else ", until somebody ends it"
        turn.move(
            "progressing",
            "ready",
            f"{rollout.candidate} is ready; it answers copies of {bp / 100:g} %{length}",
        )

    def advance(self, turn: Turn) -> None:
        rollout, evidence = turn.rollout, turn.evidence
        ends, known, minimum = (
            rollout.step_ends_at,
            evidence.closed_until,
            rollout.spec.criteria.minimum_requests,
        )
        if not _plan(rollout.spec).duration_s or ends is None or known is None or known < ends + PAIRED_AFTER:
            return
        if not evidence.requests:
            turn.pause(
                "no_data",
                f"{rollout.candidate} got no copy in {rollout.step_length_s:g} s; it goes on when there are some",
            )
        elif evidence.requests >= minimum:
            self._finish(turn, "completed", f"{rollout.step_length_s:g} s are over")
        elif rollout.state == "progressing":
            words = f"{evidence.requests:,} of {minimum:,} copies are answered"
            turn.move("analysing", "not_enough_data", f"the time is over, and {words}")

    def fail(self, turn: Turn) -> None:
        """Waits for the end, as everything else."""
        self.advance(turn)

    def take_back(self, turn: Turn, reason: str, percent: float) -> None:
        turn.remove(reason)

    def resume(self, turn: Turn) -> None:
        common.resume(turn)

    def promote(self, turn: Turn, bp: int | None) -> None:
        """Ends the copies now, and judges them."""
        if bp is not None:
            raise Refused(
                f"the shadow rollout {turn.rollout.id} gets no traffic of its own; promote it without a share to end "
                "it, and begin a canary of the version",
                code="candidate_is_shadow",
            )
        if _broken_limit(turn) is None and not _compared(turn).compared:
            raise Refused(
                f"no answer of {turn.rollout.candidate} has been compared yet, so nothing is known of it; wait for "
                "traffic, or roll it back",
                code="nothing_compared",
            )
        self._finish(turn, "by_user", f"ended by {turn.around.actor}")

    def _finish(self, turn: Turn, code: str, why: str) -> None:
        broken = _broken_limit(turn)
        if broken is None:
            _compare(turn, code, why)
        elif turn.rollout.spec.auto_rollback.enabled or code == "by_user":
            turn.fail("criterion_failed", f"{why}; {broken.reason}", criterion=broken.criterion)
        else:
            turn.pause("criterion_failed", f"{why}; {broken.reason}", criterion=broken.criterion)


def _broken_limit(turn: Turn) -> Finding | None:
    verdict = turn.evidence.verdict or turn.rollout.verdict
    findings = verdict.findings if verdict is not None else ()
    return next((each for each in findings if each.verdict == "fail" and each.criterion in LIMITS), None)


def _compare(turn: Turn, code: str, why: str) -> None:
    report = _compared(turn)
    least = _plan(turn.rollout.spec).min_agreement
    words = (
        f"{why}; {report.compared:,} answers compared, {report.agreement:.4f} the same "
        f"(95 %: {report.agreement_lower:.4f} to {report.agreement_upper:.4f})"
    )
    if not report.compared:
        turn.fail("nothing_compared", f"{words}; copies were answered, but none beside a caller's answer")
    elif least and report.agreement_upper < least:
        turn.fail("agreement_below", f"{words}, below {least:g}", criterion="agreement")
    elif least and report.agreement_lower < least:
        turn.fail("agreement_unproven", f"{words}, not shown to be {least:g}", criterion="agreement")
    else:
        turn.remove(words)
        turn.end("succeeded", code, words)


def _compared(turn: Turn) -> ShadowReport:
    return turn.evidence.shadow or turn.rollout.shadow or ShadowReport()


def _plan(spec: RolloutSpec) -> ShadowPlan:
    assert spec.shadow is not None  # `check` saw to it
    return spec.shadow
