"""How the deployer starts a model server on this machine, and what the model server writes back (contracts §5).

    python -m phantom_model_server --launch <data>/replicas/<id>.launch.json

1. The deployer writes the launch file (0600, by rename), then spawns: a session of its own, stdout and stderr to a
   log file, no inherited pipe.
2. The model server first takes `flock(LOCK_EX)` on `lock_path` and holds it until it has exited. Watchers probe by
   taking a shared lock for an instant, so it retries for `LOCK_RETRY_S`; then it exits with `EXIT_LOCKED` and
   touches nothing. Once it holds the lock it writes its pid into that file (decimal, a newline).
3. It finds the artifact (`artifacts_dir`, then `download_dir`, then the registry with `artifact_token`), checks its
   sha256, loads it, listens, and writes the replica file (by rename) in state `ready`.
4. Where it cannot, it writes the replica file in state `failed` and exits: with `EXIT_FAILED` where another start would
   fail in the same way (`digest_mismatch`, `corrupt_model`, ...), with `EXIT_RETRY` where it may not
   (`registry_unavailable`, `address_in_use`, ...).
5. On a graceful end (Drain, SIGTERM) it writes state `stopped` and exits with 0. The lock's release is the death
   certificate; the file only says why.

A replica file that carries another `launch_id` is of an earlier life of the replica and means nothing.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from phantom_contracts.schema import ModelSchema

EXIT_FAILED = 3
EXIT_LOCKED = 4
EXIT_RETRY = 5
LOCK_RETRY_S = 2.0

Runtime = Literal["auto", "native"]
ReplicaState = Literal["ready", "failed", "stopped"]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Artifact(_File):
    """The bytes to load. Content decides the format; the name is for its ending only."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    file_name: str
    framework: str = Field(description="`xgboost`, `onnx`, `scikit-learn`")
    size_bytes: int = Field(default=0, ge=0, description="0 where not known")


class LaunchFile(_File):
    """Everything a model server needs to serve one revision as one replica."""

    replica_id: str
    launch_id: str = Field(description="one a start of the process; echoed in the replica file")
    workspace: str = "default"
    deployment_id: str
    revision: str = Field(description="<deployment>.<n>")
    model_id: str
    model_version: str
    artifact: Artifact
    model_schema: ModelSchema

    artifacts_dir: Path = Field(description="shared store, read-only: sha256/<2 hex>/<64 hex> below it")
    download_dir: Path = Field(
        description="where a model server keeps what it fetched, same layout, by rename"
    )
    registry_address: str = Field(default="", description="host:port for misses; empty: no registry to ask")
    artifact_token: str = Field(
        default="", description="may read this artifact and nothing else; may be expired"
    )

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="gRPC (OIP and frames); 0 takes a free one")
    http_port: int = Field(default=0, ge=0, le=65535, description="/health, /ready, /metrics; 0: a free one")
    rest: bool = Field(default=False, description="offer OIP's REST form on the HTTP port as well")
    lock_path: Path
    replica_path: Path = Field(description="where the replica file goes")

    drain_key: str = Field(min_length=16, description="secret that a Drain call must carry")
    drain_timeout_s: float = Field(default=30.0, gt=0, description="longest wait for open work at the end")
    runtime: Runtime = Field(default="auto", description="`native` pins the framework's own runtime")
    allow_pickle: bool = Field(
        default=False, description="the operator trusts pickled scikit-learn artifacts"
    )
    threads: int = Field(default=1, ge=1, le=256, description="compute threads of one predict call")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    otlp_endpoint: str | None = None


class ReplicaFile(_File):
    """What a model server says of itself."""

    replica_id: str
    launch_id: str
    revision: str
    digest: str = Field(description="of the bytes as found, `sha256:<64 hex>`; empty where none were found")
    state: ReplicaState
    pid: int
    started_at: datetime
    address: str = Field(default="", description="host:port of gRPC, where `ready`")
    http_address: str = ""
    error_code: str = Field(default="", description="stable, where `failed`")
    error_message: str = ""
