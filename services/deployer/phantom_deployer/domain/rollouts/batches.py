"""How a rolling rollout goes from replica to replica."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_deployer.domain.rollouts.spec import RollingPlan
from phantom_statistics.assignment import BUCKETS


@dataclass(frozen=True, slots=True)
class Batches:
    """`surge` replicas may be there over the wanted number, `unavailable` may be missing. One of both is above 0.

    A *batch* is the number of candidate replicas up to which it has come. The stable revision keeps one replica to
    the last, so that traffic can go back to it.
    """

    replicas: int
    surge: int
    unavailable: int

    @classmethod
    def of(cls, plan: RollingPlan | None, replicas: int) -> Batches:
        """Where neither is given: one over."""
        plan = plan or RollingPlan()
        surge = plan.max_surge or (0 if plan.max_unavailable else 1)
        return cls(replicas, surge, plan.max_unavailable)

    @property
    def is_possible(self) -> bool:
        """Whether somebody serves all the time."""
        return self.replicas > 1 or self.surge > 0

    @property
    def first(self) -> int:
        """The first batch: at least one, or nothing would begin."""
        return min(self.replicas, max(self.surge, 1))

    @property
    def stable_meanwhile(self) -> int:
        """Stable replicas while the first batch starts."""
        return min(self.replicas, self.replicas + self.surge - self.first)

    def stable(self, batch: int) -> int:
        """Stable replicas once the batch serves."""
        return max(1, min(self.replicas, self.replicas - self.unavailable - batch))

    def following(self, batch: int) -> int:
        """The batch after this one."""
        return min(self.replicas, self.replicas + self.surge - self.stable(batch))

    @property
    def last(self) -> int:
        """The batch beside the last stable replica; what then is missing starts once that one may go."""
        return min(self.replicas, self.replicas + self.surge - 1)

    def shares(self) -> tuple[int, ...]:
        """The candidate's share in each batch, then all of it; basis points."""
        batch, found = self.first, []
        while True:
            found.append(share(batch, self.stable(batch)))
            if batch >= self.last:
                return (*found, BUCKETS)
            batch = self.following(batch)


def share(candidate: int, stable: int) -> int:
    """Of so many serving replicas. Never all: that is the end of the rollout."""
    return round(BUCKETS * candidate / (candidate + max(stable, 1)))
