"""A turn of a rollout commits with the deployment, its route and its events."""

from __future__ import annotations

from dataclasses import replace

from phantom_deployer.domain.deployment import Deployment
from phantom_deployer.domain.rollouts.model import Rollout
from phantom_deployer.domain.rollouts.turn import Turn, settled
from phantom_deployer.service.announcements import commit
from phantom_deployer.service.ports import Experiments, Work


async def save(
    work: Work,
    before: Deployment,
    known: Rollout | None,
    turn: Turn,
    *,
    experiments: Experiments,
) -> tuple[Rollout, Deployment]:
    """Both as saved. The deployment's row is locked already; `known` is the rollout as it was, None for a new one."""
    after = await commit(
        work, before, turn.deployment, turn.facts, actor=turn.around.actor, experiments=experiments
    )
    rollout = settled(turn.rollout, after.route_version)
    moves = [replace(each, route_version=after.route_version) for each in turn.moves]
    await work.save_rollout(known, rollout, moves)
    return rollout, after
