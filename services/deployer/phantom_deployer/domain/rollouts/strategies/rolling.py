"""Rolling: replica by replica; the candidate's share is its ready replicas' part of all that serve."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from phantom_deployer.domain import rollout as mechanics
from phantom_deployer.domain.rollouts.batches import Batches, share
from phantom_deployer.domain.rollouts.spec import RolloutSpec
from phantom_deployer.domain.rollouts.strategies import strategy as common
from phantom_deployer.domain.rollouts.strategies import window
from phantom_deployer.domain.rollouts.turn import Turn
from phantom_platform.errors import Invalid, Refused, Violation

# Without a request for so long, a batch that must have some waits for traffic.
NO_DATA_AFTER = timedelta(seconds=60)
# Notes: candidate replicas that the present batch has, and since when more are starting.
BATCH, GROWN_AT = "batch", "grown_at"


class Rolling:
    """A batch passes at once, unless `minimum_requests` are asked for: then as a step of a canary does."""

    acts_at_once = True

    def shares(self, spec: RolloutSpec) -> tuple[int, ...]:
        """Known once the number of replicas is: `prepare` sets them."""
        return ()

    def prepare(self, turn: Turn) -> None:
        batches = _batches(turn)
        if not batches.is_possible:
            problem = (
                f"{turn.deployment.id} has one replica, and nobody would serve meanwhile; allow one over"
            )
            raise Invalid(code="invalid_rollout", violations=[Violation("spec.rolling.max_surge", problem)])
        turn.rollout = replace(turn.rollout, steps=batches.shares())
        _set_target(turn, turn.rollout.candidate, batches.first)
        _set_target(turn, turn.rollout.stable, batches.stable_meanwhile)

    def begin(self, turn: Turn) -> None:
        _enter(turn, 0, _target(turn))

    def advance(self, turn: Turn) -> None:
        if window.has_switched(turn):
            window.watch(turn)
            return
        batch, target = _batch(turn), _target(turn)
        if target > batch and _serving(turn) >= target:
            _enter(turn, turn.rollout.step + 1, target)
        elif _follow(turn) or not self._is_whole(turn) or not _has_passed(turn):
            return
        elif batch >= _batches(turn).last:
            _complete(turn, "passed", f"{batch} replicas of {turn.rollout.candidate} serve")
        else:
            _grow(turn)

    def _is_whole(self, turn: Turn) -> bool:
        """Whether all replicas that it is to have by now serve. Rolls back where they take too long."""
        limit, since = turn.rollout.spec.ready_timeout_s, turn.rollout.notes.get(GROWN_AT)
        target, serving = _target(turn), _serving(turn)
        if serving >= target:
            return True
        if since and turn.now - datetime.fromisoformat(since) >= timedelta(seconds=limit):
            reason = (
                f"{serving} of {target} replicas of {turn.rollout.candidate} were ready within {limit:g} s"
            )
            common.roll_back(self, turn, "candidate_not_ready", reason)
        return False

    def fail(self, turn: Turn) -> None:
        common.fail(self, turn)

    def take_back(self, turn: Turn, reason: str, percent: float) -> None:
        window.take_back(turn, reason, percent)
        candidate = turn.deployment.candidate_revision
        if candidate is not None and candidate.target:  # one stays for a look
            _set_target(turn, candidate.id, 1)

    def resume(self, turn: Turn) -> None:
        common.resume(turn)

    def promote(self, turn: Turn, bp: int | None) -> None:
        """The next batch, whatever the present one says."""
        rollout = turn.rollout
        if bp is not None:
            raise Refused(
                f"the share of the rolling rollout {rollout.id} follows its replicas; promote it without a share",
                code="share_follows_replicas",
            )
        if window.has_switched(turn):
            window.finish_by_user(turn)
            return
        if _serving(turn) < _target(turn):
            raise Refused(
                f"replicas of {rollout.candidate} are still starting: {_serving(turn)} of {_target(turn)} serve",
                code="candidate_not_ready",
                candidate=rollout.candidate,
            )
        was_failed = rollout.reason_code == "criterion_failed"
        words = f"promoted by {turn.around.actor}"
        if _batch(turn) >= _batches(turn).last:
            _complete(turn, "by_user", words)
        else:
            _grow(turn)
            turn.move("progressing", "by_user", f"{words}; {_target(turn)} replicas are to serve")
        if was_failed:
            turn.forgive()


def _enter(turn: Turn, step: int, batch: int) -> None:
    """So many candidate replicas serve: the stable ones that they replace may go."""
    rollout = turn.rollout
    turn.rollout = replace(rollout, notes={**rollout.notes, BATCH: str(batch), GROWN_AT: ""})
    _set_target(turn, rollout.stable, _batches(turn).stable(batch))
    bp = _share(turn)
    steps = (*rollout.steps[:step], bp, *rollout.steps[step + 1 :])
    turn.rollout = replace(turn.rollout, steps=steps)
    turn.share(step, bp, "ready", f"{_words(turn)}; step {step + 1} of {len(steps)}: {bp / 100:g} %")


def _follow(turn: Turn) -> bool:
    """The share where replicas came or died, and the stable replicas where the deployment was scaled."""
    batches = _batches(turn)
    _set_target(turn, turn.rollout.stable, batches.stable(_batch(turn)))
    bp = _share(turn)
    if bp == turn.rollout.bp:
        return False
    turn.share(turn.rollout.step, bp, "replicas_changed", f"{_words(turn)}: {bp / 100:g} %")
    return True


def _has_passed(turn: Turn) -> bool:
    rollout, evidence = turn.rollout, turn.evidence
    if not rollout.spec.criteria.minimum_requests:
        return True
    if evidence.verdict is not None and evidence.verdict.verdict == "pass":
        return True
    begun = rollout.span.started_at if rollout.span else None
    if begun is not None and not evidence.requests and turn.now - begun > NO_DATA_AFTER:
        turn.pause(
            "no_data",
            f"the candidate got no request in {NO_DATA_AFTER.total_seconds():g} s at {rollout.bp / 100:g} %; it goes "
            "on when there is traffic",
        )
    elif rollout.state == "progressing" and evidence.verdict is not None:
        turn.move(
            "analysing", evidence.verdict.verdict, f"the batch has not passed yet: {evidence.verdict.words}"
        )
    return False


def _grow(turn: Turn) -> None:
    rollout = turn.rollout
    _set_target(turn, rollout.candidate, _batches(turn).following(_batch(turn)))
    turn.rollout = replace(rollout, notes={**rollout.notes, GROWN_AT: turn.now.isoformat()})


def _complete(turn: Turn, code: str, reason: str) -> None:
    rollout = turn.rollout
    keeps = f", {rollout.stable} stays warm for {rollout.window_s:g} s" if rollout.window_s else ""
    words = f"{reason}; all traffic goes to it{keeps}"
    window.switch(turn, rollout.step + 1, code, words, keep=rollout.window_s > 0)


def _batches(turn: Turn) -> Batches:
    return Batches.of(turn.rollout.spec.rolling, turn.deployment.replicas)


def _batch(turn: Turn) -> int:
    return int(turn.rollout.notes[BATCH])


def _target(turn: Turn) -> int:
    candidate = turn.candidate
    assert candidate is not None  # `look` saw it
    return turn.deployment.wanted(candidate)


def _serving(turn: Turn) -> int:
    return len(turn.deployment.serving(turn.rollout.candidate))


def _stable_serving(turn: Turn) -> int:
    """Of those that stay."""
    stable = turn.deployment.stable_revision
    assert stable is not None  # a rollout begins beside one
    return min(len(turn.deployment.serving(stable.id)), turn.deployment.wanted(stable))


def _share(turn: Turn) -> int:
    return share(_serving(turn), _stable_serving(turn))


def _words(turn: Turn) -> str:
    candidate, stable = turn.rollout.candidate, turn.rollout.stable
    return f"{_serving(turn)} replicas of {candidate} and {_stable_serving(turn)} of {stable} serve"


def _set_target(turn: Turn, revision: str, number: int) -> None:
    turn.change(mechanics.set_target(turn.deployment, revision, number))
