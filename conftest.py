"""What every test may ask for: `kafka_bootstrap`, `postgres_dsn` (see phantom_platform.testing.fixtures)."""

pytest_plugins = ["phantom_platform.testing.fixtures"]
