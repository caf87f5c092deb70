"""Settings that every service shares, read from the environment (`PHANTOM_*`).

Only a service's `app.py` sees these classes; everything else is handed values.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _prefixed(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="ignore", populate_by_name=True)


class KafkaSettings(BaseSettings):
    """Where events are."""

    model_config = _prefixed("PHANTOM_KAFKA_")

    bootstrap: str = Field(default="127.0.0.1:9092", description="host:port, several separated by commas")


class PostgresSettings(BaseSettings):
    """Where state is."""

    model_config = _prefixed("PHANTOM_POSTGRES_")

    dsn: str = Field(
        default="postgresql://postgres@127.0.0.1:5432/postgres",
        description="a database that every service may create its own schema in",
    )


class GrpcSettings(BaseSettings):
    """Where the control services listen."""

    model_config = _prefixed("PHANTOM_CONTROL_")

    host: str = Field(default="127.0.0.1", description="address to listen on; loopback unless said otherwise")
    port: int = Field(default=50051, ge=0, le=65535, description="0 takes a free one")

    @property
    def address(self) -> str:
        """Where a process on this machine reaches the control services."""
        return f"{self.host}:{self.port}"


class TelemetrySettings(BaseSettings):
    """What a process tells about itself."""

    model_config = _prefixed("PHANTOM_")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO")
    otlp_endpoint: str | None = Field(
        default=None, description="OTLP/gRPC collector; without one no trace is sent"
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="serves /metrics, /health and /ready; 0 takes a free port"
    )


class MigrationSettings(BaseSettings):
    """When what older code still needed may go."""

    model_config = _prefixed("PHANTOM_")

    run_post_migrations: bool = Field(
        default=False,
        description="apply `post` migrations once ready: only where no process with older code is left",
    )


class DataSettings(BaseSettings):
    """Where files are kept."""

    model_config = _prefixed("PHANTOM_")

    data_dir: Path = Field(
        default_factory=lambda: Path.home() / ".phantom-ml-studio",
        description="run files, logs, secrets (0600) and the artifact store",
    )
