"""The only SQL of the monitor. Every method runs in the transaction it is given, or reads."""

from pathlib import Path

from phantom_monitor.store.closings import PostgresClosings
from phantom_monitor.store.gateways import PostgresGateways
from phantom_monitor.store.predictions import PostgresPredictions
from phantom_monitor.store.shadows import PostgresShadows
from phantom_monitor.store.windows import PostgresWindows

SCHEMA = "monitor"
MIGRATIONS = Path(__file__).parents[1] / "migrations"
# Tables grow from nothing to millions of rows: a plan that was cached while they were small would scan them whole.
SESSION = {"plan_cache_mode": "force_custom_plan", "jit": "off"}

__all__ = [
    "MIGRATIONS",
    "SCHEMA",
    "SESSION",
    "PostgresClosings",
    "PostgresGateways",
    "PostgresPredictions",
    "PostgresShadows",
    "PostgresWindows",
]
