"""Settings of one gateway process, from `PHANTOM_GATEWAY_*`. Only where processes are built is this class seen."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_MAX_GROUP_NAME = 29  # of 32


class GatewaySettings(BaseSettings):
    """Kafka, the data directory and telemetry are set as for every service (`phantom_platform.settings`)."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_GATEWAY_", frozen=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="address to listen on")
    grpc_port: int = Field(default=8001, ge=0, le=65535, description="OIP over gRPC; 0 takes a free one")
    http_port: int = Field(default=8000, ge=0, le=65535, description="OIP over REST; 0 takes a free one")
    metrics_port: int = Field(
        default=8002, ge=0, le=65535, description="/metrics, /health, /ready; 0 takes a free one"
    )
    worker: str = Field(
        default="0",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$",
        description="names this process's folder for spill and snapshots; one process a name",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes that share the ports; `worker` with -0, -1, ... names each, and what is said here of "
        "one process (spill_bytes, max_in_flight, ...) holds for each of them",
    )
    auth: Literal["open", "required"] = Field(
        default="open", description="`required`: every call needs a token; beyond loopback it always is"
    )
    spill_bytes: int = Field(
        default=1024**3, ge=1024**2, description="prediction batches kept on disk while Kafka is away"
    )
    max_in_flight: int = Field(default=4096, ge=1, description="calls under way; beyond it they are refused")
    max_in_flight_bytes: int = Field(
        default=512 * 1024**2,
        ge=64 * 1024**2,
        description="request bytes under way; beyond it calls are refused",
    )
    shadow_in_flight: int = Field(
        default=256, ge=0, description="copies for shadow revisions under way; beyond it they are left out"
    )
    shadow_in_flight_bytes: int = Field(
        default=64 * 1024**2,
        ge=0,
        description="request bytes of copies under way; beyond it they are left out",
    )
    max_wait_ms: float = Field(
        default=1000.0,
        ge=0,
        description="how long a call may be expected to wait in a replica's queue, besides the model's own time; "
        "beyond it calls are refused; 0 queues whatever comes",
    )
    frame_calls: int = Field(default=256, ge=1, le=4096, description="calls of one frame")
    frame_bytes: int = Field(
        default=1024**2, ge=1024, description="request bytes of one frame of several calls"
    )
    frame_wait_ms: float = Field(default=1.0, ge=0, le=100, description="how long calls gather at most")
    frames_in_flight: int = Field(default=4, ge=1, le=64, description="frames under way on one stream")
    eject_after: int = Field(default=5, ge=1, description="failures in a row that eject a replica")
    kafka_patience_s: float = Field(
        default=5.0, ge=0, description="how long Kafka may be away at start before the snapshot serves"
    )

    @model_validator(mode="after")
    def _leave_room_for_numbers(self) -> Self:
        if self.workers > 1 and len(self.worker) > _MAX_GROUP_NAME:
            raise ValueError(
                f"PHANTOM_GATEWAY_WORKER may have {_MAX_GROUP_NAME} characters at most where there are several "
                "workers, since each adds its number"
            )
        return self

    @property
    def is_auth_required(self) -> bool:
        """Whether every call needs a token."""
        return self.auth == "required" or not _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
