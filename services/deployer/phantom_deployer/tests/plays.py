"""A rollout played look by look, with processes, gateways and evidence by hand."""

from __future__ import annotations

from dataclasses import replace

from phantom_deployer.domain.acknowledgement import Waiting
from phantom_deployer.domain.rollouts import commands
from phantom_deployer.domain.rollouts.model import Judgement, Rollout, Transition
from phantom_deployer.domain.rollouts.spec import (
    RolloutSpec,
)
from phantom_deployer.domain.rollouts.step import look
from phantom_deployer.domain.rollouts.turn import Around, Evidence, Turn, settled
from phantom_deployer.domain.routing import Route, desired_route
from phantom_deployer.tests.builders import World, created, model
from phantom_statistics.rollouts import Finding

OLD, NEW = "fraud-prod.1", "fraud-prod.2"
FAILED = Judgement(
    "fail", (Finding("error_rate_threshold", "fail", reason="too many"),), "error_rate_threshold"
)
PASSED = Judgement("pass")


class Play:
    """A rollout on a deployment whose replicas come up by themselves, and whose routes are counted."""

    def __init__(self, spec: RolloutSpec, replicas: int = 1) -> None:
        self.world = World(created(replicas=replicas))
        self.world.until_ready()
        self.versions: list[Route | None] = [desired_route(self.world.deployment)]
        self.evidence = Evidence()
        self.acknowledged = True
        self.actor = "ann"
        begin = commands.Begin("r-1", model("1.1.0"), spec, False, "s", "ann")
        self.rollout: Rollout
        self.moves: list[Transition] = []
        self._take(commands.create(self.world.deployment, begin, self._around()))

    def _around(self) -> Around:
        waiting = Waiting("not yet")
        return Around(
            self.world.now,
            lambda route, version: None if self.acknowledged else waiting,
            self.world.used,
            self.evidence,
            self.actor,
        )

    def _take(self, turn: Turn) -> Turn:
        self.world.deployment = turn.deployment
        self._publish()
        self.moves.extend(turn.moves)
        self.rollout = settled(turn.rollout, len(self.versions))
        return turn

    def _publish(self) -> None:
        route = desired_route(self.world.deployment)
        if route != self.versions[-1]:
            self.versions.append(route)

    def look(self, seconds: float = 1) -> Turn:
        """One look of the pilot. Windows are closed up to now."""
        self.world.advance(seconds)
        self.evidence = replace(self.evidence, closed_until=self.world.now)
        return self._take(look(self.rollout, self.world.deployment, self._around()))

    def do(self, change: object, *arguments: object) -> Turn:
        turn = Turn(self.rollout, self.world.deployment, self._around())
        change(turn, *arguments)  # type: ignore[operator]
        return self._take(turn)

    def up(self) -> None:
        """Every replica that is wanted serves, every other one is gone."""
        self.world.until_ready()
        for replica in self.world.deployment.processes:
            if replica.is_leaving:
                self.world.died(replica)
        self.world.step()
        self._publish()

    @property
    def route(self) -> Route:
        route = self.versions[-1]
        assert route is not None
        return route

    def serving(self) -> tuple[int, int]:
        """Replicas of the old revision, and of the new one."""
        return len(self.world.deployment.serving(OLD)), len(self.world.deployment.serving(NEW))
