"""How a model server works; what it serves stands in its launch file (`phantom_contracts.launch`)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ModelServerSettings(BaseSettings):
    """Read from `PHANTOM_MODEL_SERVER_*`."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_MODEL_SERVER_", frozen=True, extra="ignore")

    inline_bytes: int = Field(
        default=64 * 1024,
        ge=0,
        description="frames up to this size (bytes) are answered on the event loop, since handing one to a thread "
        "takes about 0.1 ms, as long as answering it; larger ones go to a thread, so that they hold up nothing",
    )
    workers: int = Field(default=2, ge=1, le=64, description="threads for larger frames")
    max_request_bytes: int = Field(
        default=66 * 1024 * 1024,
        ge=1024,
        description="largest message, bytes: 64 MiB of request and what a frame adds to it",
    )
    download_timeout_s: float = Field(
        default=300.0, gt=0, description="longest time (s) for fetching an artifact from the registry"
    )
    stop_grace_s: float = Field(
        default=2.0,
        ge=0,
        description="after the drain: time (s) for last bytes to leave before connections close",
    )
