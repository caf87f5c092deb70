"""Postgres: a service's pool, transactions and migrations. Only stores and this package know asyncpg."""

from phantom_platform.outbox import Outbox, OutboxRelay
from phantom_platform.postgres.database import Database
from phantom_platform.postgres.transaction import Transaction

__all__ = ["Database", "Outbox", "OutboxRelay", "Transaction"]
