"""What a model server in a container of its own serves: the file that the image carries under `config/`.

    python -m phantom_model_server --container config/serve.json

There is no deployer, registry or data directory around it: the artifact lies in the image, and the server listens on
the ports that the image exposes until it is told to stop.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from phantom_contracts.launch import Artifact, Runtime
from phantom_contracts.schema import ModelSchema

HTTP_PORT = 8080
GRPC_PORT = 8081


class ContainerFile(BaseModel):
    """One model version, and how to serve it. Unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str = Field(min_length=1)
    model_version: str = Field(min_length=1)
    artifact: Artifact
    artifact_path: Path = Field(
        description="the artifact; relative to the folder that the server is started in"
    )
    model_schema: ModelSchema
    host: str = "0.0.0.0"  # noqa: S104  # a container's own network
    http_port: int = Field(default=HTTP_PORT, ge=0, le=65535, description="/health, /ready, /metrics and /v2")
    grpc_port: int = Field(default=GRPC_PORT, ge=0, le=65535, description="OIP over gRPC")
    drain_timeout_s: float = Field(default=30.0, gt=0, description="longest wait for open work at the end")
    runtime: Runtime = Field(default="native", description="`auto` needs the ONNX converters in the image")
    allow_pickle: bool = Field(default=False, description="the operator trusts this pickled artifact")
    threads: int = Field(default=1, ge=1, le=256, description="compute threads of one predict call")
