"""What can be set about the pipelines service. Only `app.py` reads this class."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PipelinesSettings(BaseSettings):
    """`PHANTOM_PIPELINES_*`."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_PIPELINES_", frozen=True, extra="ignore")

    concurrency: int = Field(
        default=16, ge=1, le=256, description="executions whose stages run at once; others wait, oldest first"
    )
    poll_s: float = Field(
        default=1.0, gt=0, le=60, description="s between two looks at a deployment or a rollout in progress"
    )
