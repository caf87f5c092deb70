"""Blue-green: checked without any traffic, then everything at once, with the old revision warm behind it."""

from __future__ import annotations

from phantom_deployer.domain.rollouts.spec import BlueGreenPlan, RolloutSpec
from phantom_deployer.domain.rollouts.strategies import strategy as common
from phantom_deployer.domain.rollouts.strategies import window
from phantom_deployer.domain.rollouts.turn import Turn
from phantom_statistics.assignment import BUCKETS

BEFORE_SWITCH = "before_switch"


class BlueGreen:
    """Its checks are those of every rollout before traffic (a replay, an approval), and a pause where asked for."""

    acts_at_once = True

    def shares(self, spec: RolloutSpec) -> tuple[int, ...]:
        return (BUCKETS,)

    def prepare(self, turn: Turn) -> None:
        """It starts with all its replicas."""

    def begin(self, turn: Turn) -> None:
        rollout = turn.rollout
        plan = rollout.spec.blue_green or BlueGreenPlan()
        # Who approved it has had their look.
        if plan.pause_before_switch and not rollout.approved_by:
            turn.pause(BEFORE_SWITCH, f"{rollout.candidate} is ready and checked; resume to switch to it")
        else:
            _switch(turn, "ready", f"{rollout.candidate} is ready")

    def advance(self, turn: Turn) -> None:
        window.watch(turn)

    def fail(self, turn: Turn) -> None:
        common.fail(self, turn)

    def take_back(self, turn: Turn, reason: str, percent: float) -> None:
        window.take_back(turn, reason, percent)

    def resume(self, turn: Turn) -> None:
        if turn.rollout.reason_code == BEFORE_SWITCH:
            _switch(turn, "by_user", f"resumed by {turn.around.actor}")
        else:
            common.resume(turn)

    def promote(self, turn: Turn, bp: int | None) -> None:
        """Only once it has all the traffic is there something to promote: it ends the window."""
        if bp not in (None, BUCKETS):
            raise common.refuse_backwards(turn.rollout.deployment_id, f"{(bp or 0) / 100:g} %", "100 %")
        window.finish_by_user(turn)


def _switch(turn: Turn, code: str, reason: str) -> None:
    words = (
        f"{reason}; all traffic goes to it, {turn.rollout.stable} stays warm for {turn.rollout.window_s:g} s"
    )
    window.switch(turn, 0, code, words, keep=True)
