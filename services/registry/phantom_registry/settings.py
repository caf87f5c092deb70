"""What can be set about the registry. Only `app.py` reads this class."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

GIB = 1024**3


class RegistrySettings(BaseSettings):
    """`PHANTOM_REGISTRY_*`."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_REGISTRY_", frozen=True, extra="ignore")

    max_artifact_bytes: int = Field(
        default=4 * GIB, gt=0, description="bytes; a larger artifact is refused before its first byte"
    )
    min_free_bytes: int = Field(
        default=GIB,
        ge=0,
        description="bytes that an upload must leave free on the disk, for Kafka and Postgres",
    )
    housekeeping_interval_s: float = Field(
        default=30.0, gt=0, description="s between two looks for overdue approvals"
    )
    answers_kept_days: int = Field(
        default=14,
        ge=1,
        description="days for which a request id is answered again; as long as an inbox keeps",
    )
