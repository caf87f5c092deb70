"""What can be set about the monitor. Only `app.py` reads this class."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class MonitorSettings(BaseSettings):
    """`PHANTOM_MONITOR_*`."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_MONITOR_", frozen=True, extra="ignore")

    publish_interval_s: float = Field(
        default=1.0, gt=0, description="s between two looks for windows to announce"
    )
    maturity_interval_s: float = Field(
        default=5.0, gt=0, description="s between two looks for matured labels"
    )
    export_interval_s: float = Field(
        default=2.0, gt=0, description="s between two refreshes of Prometheus figures"
    )
    forget_interval_s: float = Field(default=3600.0, gt=0, description="s between two prunings")
