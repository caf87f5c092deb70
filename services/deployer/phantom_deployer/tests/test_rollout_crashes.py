"""Killed at any transition, right before or right after it commits: a fresh deployer goes on to the same end.

Each story is told once undisturbed, which counts the moments at which the deployer could die, and then once for each
of these moments. Callers repeat, with the same request id, what was not answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from phantom_deployer.domain.rollouts.spec import (
    AutoRollback,
    RollingPlan,
    RolloutSpec,
    ShadowPlan,
    SuccessCriteria,
)
from phantom_deployer.tests.hand_monitor import Traffic
from phantom_deployer.tests.harness import Saboteur
from phantom_deployer.tests.rollout_harness import ENDPOINT, RolloutDeployer, canary
from phantom_platform.postgres import Database

pytestmark = pytest.mark.integration

Story = Callable[[RolloutDeployer], Awaitable[None]]


async def command(deployer: RolloutDeployer, who: str, name: str, *args: object) -> None:
    call = deployer.by(who, f"{name}-{who}")
    change = {"approve": "approve", "promote": "promote", "roll_back": "roll_back", "resume": "resume"}[name]
    await deployer.surviving(lambda: getattr(deployer.rollouts, change)(call, ENDPOINT, *args))


async def begin(deployer: RolloutDeployer, spec: object, version: str = "1.1.0") -> None:
    await deployer.surviving(lambda: deployer.create(spec, version, f"create-{version}"))  # type: ignore[arg-type]


async def until(deployer: RolloutDeployer, state: str) -> None:
    await deployer.surviving(lambda: deployer.until_state(state))


async def succeeds(deployer: RolloutDeployer) -> None:
    """Approved, a step, the window, the end."""
    await begin(deployer, canary(20, 100, approval_required=True))
    await until(deployer, "waiting_for_approval")
    await command(deployer, "bob", "approve", "")
    await until(deployer, "succeeded")


async def rolls_back(deployer: RolloutDeployer) -> None:
    deployer.candidate = Traffic(6400, error_rate=0.2)
    await begin(deployer, canary(auto_rollback=AutoRollback(rollback_percentage=1)))
    await until(deployer, "rolled_back")


async def never_is_ready(deployer: RolloutDeployer) -> None:
    deployer.machine.broken["1.1.0"] = ("corrupt_model", True)
    await begin(deployer, canary())
    await until(deployer, "failed")


async def loses_its_metrics(deployer: RolloutDeployer) -> None:
    await begin(deployer, canary(50, 100))
    await deployer.surviving(lambda: deployer.until_step(0))
    deployer.is_monitor_silent = True
    await until(deployer, "paused")
    deployer.is_monitor_silent = False
    await until(deployer, "promoting")
    await command(deployer, "ann", "roll_back", "enough")
    await until(deployer, "rolled_back")


async def is_superseded(deployer: RolloutDeployer) -> None:
    await begin(deployer, canary())
    await deployer.surviving(lambda: deployer.until_step(0))
    await begin(deployer, replace(canary(50, 100), on_conflict="supersede"), "1.2.0")
    await deployer.surviving(lambda: deployer.until_step(0))
    await command(deployer, "ann", "promote", 100.0)
    await until(deployer, "succeeded")


async def switches_and_goes_back(deployer: RolloutDeployer) -> None:
    """Blue-green, with errors once all traffic is on the new one."""
    criteria = SuccessCriteria(error_rate_threshold=0.05)
    window = RolloutSpec("blue_green", criteria=criteria, rollback_window_s=300.0)
    await begin(deployer, replace(window, auto_rollback=AutoRollback(failure_threshold=1)))
    await until(deployer, "promoting")
    deployer.stable = Traffic(error_rate=0.5)
    await until(deployer, "rolled_back")


async def rolls_on(deployer: RolloutDeployer) -> None:
    """Replica by replica."""
    await begin(deployer, RolloutSpec("rolling", rolling=RollingPlan(max_surge=1), rollback_window_s=10.0))
    await until(deployer, "succeeded")


async def is_shadowed(deployer: RolloutDeployer) -> None:
    """Copies for nobody, until somebody ends it."""
    await begin(deployer, RolloutSpec("shadow", shadow=ShadowPlan(50.0)))
    await deployer.surviving(
        lambda: deployer.until(lambda each: each.shadow is not None and each.shadow.compared > 0)
    )
    await command(deployer, "ann", "promote", None)
    await until(deployer, "succeeded")


async def told(database: Database, story: Story, saboteur: Saboteur) -> RolloutDeployer:
    deployer = await RolloutDeployer.serving(database)
    deployer.restart_pilot(saboteur)
    await story(deployer)
    return deployer


async def check_invariants(deployer: RolloutDeployer) -> None:
    """Events exactly once, as the transitions have them; numbers without a gap; one live rollout at most."""
    rollouts = list((await deployer.rollouts.list(deployer.workspace, "", 10, "", False)).items)
    moves = [m for each in reversed(rollouts) for m in await deployer.rollouts.transitions(each)]
    announced = await deployer.announced_story()
    assert sorted(announced) == sorted((m.to_state, m.reason_code, m.step, m.bp) for m in moves)
    for each in rollouts:
        numbers = [m.number for m in await deployer.rollouts.transitions(each)]
        assert numbers == list(range(1, each.transitions + 1))
    assert sum(each.is_live for each in rollouts) == 0


@pytest.mark.parametrize(
    "story",
    [
        succeeds,
        rolls_back,
        never_is_ready,
        loses_its_metrics,
        is_superseded,
        switches_and_goes_back,
        rolls_on,
        is_shadowed,
    ],
    ids=lambda each: each.__name__,
)
async def test_killed_at_any_moment_it_comes_to_the_same_end(database: Database, story: Story) -> None:
    saboteur = Saboteur()
    undisturbed = await told(database, story, saboteur)
    expected = await undisturbed.story()
    await check_invariants(undisturbed)
    route = await undisturbed.route()
    assert saboteur.steps >= 2 * len(expected)  # before and after each commit
    for at in range(1, saboteur.steps + 1):
        killer = Saboteur(at)
        deployer = await told(database, story, killer)
        assert killer.steps == at  # it struck
        assert await deployer.story() == expected, at
        await check_invariants(deployer)
        other = await deployer.route()
        assert (other.arms, other.allocations, other.version) == (
            route.arms,
            route.allocations,
            route.version,
        ), at
