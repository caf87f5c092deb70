"""What an operator may change about governance, as `PHANTOM_GOVERNANCE_*`."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class GovernanceSettings(BaseSettings):
    """Only `app.py` sees this class."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_GOVERNANCE_", frozen=True, extra="ignore")

    token_life_s: int = Field(
        default=3600,
        ge=60,
        le=86_400,
        description="seconds a token holds; short, since a token cannot be taken back before it expires",
    )
    failures_per_minute: int = Field(
        default=5,
        ge=1,
        le=100,
        description="wrong passwords a username may see in a minute before every attempt is refused",
    )
