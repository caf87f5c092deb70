"""What differs between the ways to bring a version in: one module each, one row each."""

from __future__ import annotations

from phantom_deployer.domain.rollouts.strategies.blue_green import BlueGreen
from phantom_deployer.domain.rollouts.strategies.canary import Canary
from phantom_deployer.domain.rollouts.strategies.rolling import Rolling
from phantom_deployer.domain.rollouts.strategies.shadow import Shadow
from phantom_deployer.domain.rollouts.strategies.strategy import Strategy
from phantom_platform.errors import Unsupported

STRATEGIES: dict[str, Strategy] = {
    "canary": Canary(),
    "blue_green": BlueGreen(),
    "rolling": Rolling(),
    "shadow": Shadow(),
}


def of(name: str) -> Strategy:
    """Raises `Unsupported` for one that has no module."""
    found = STRATEGIES.get(name)
    if found is None:
        known = ", ".join(STRATEGIES)
        raise Unsupported(
            f"rollouts of strategy {name!r} are not supported; use one of: {known}",
            code="strategy_unsupported",
            strategy=name,
        )
    return found


__all__ = ["STRATEGIES", "Strategy", "of"]
