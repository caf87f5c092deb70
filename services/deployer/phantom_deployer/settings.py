"""What can be set about the deployer. Only `app.py` reads this class."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from phantom_contracts.launch import Runtime
from phantom_platform.settings import TelemetrySettings


class DeployerSettings(BaseSettings):
    """PHANTOM_DEPLOYER_*."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_DEPLOYER_", frozen=True, extra="ignore")

    drain_timeout_s: float = Field(
        default=30.0, gt=0, le=600, description="s; longest a withdrawn replica works off what it has"
    )
    startup_timeout_s: float = Field(
        default=120.0, gt=0, description="s; a replica that does not serve by then is killed and started anew"
    )
    unresponsive_s: float = Field(
        default=30.0, gt=0, description="s; a running replica that does not answer for so long is killed"
    )
    evidence_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="s; a rollout pauses when nothing is heard of what gateways serve for so long",
    )
    replica_threads: int = Field(
        default=1, ge=1, le=256, description="compute threads of a replica; replicas share the machine"
    )
    replica_runtime: Runtime = Field(
        default="auto",
        description="`native` pins each framework's own runtime; `auto` lets onnxruntime answer few rows of an XGBoost "
        "model where both were shown to agree",
    )
    allow_pickle: bool = Field(
        default=False,
        description="the operator trusts pickled scikit-learn artifacts, which run code when loaded",
    )
    model_server_module: str = Field(
        default="phantom_model_server",
        description="run as `python -m <module> --launch <file>` for each replica",
    )
    telemetry: TelemetrySettings = Field(
        default_factory=TelemetrySettings, description="replicas log and trace as this process does"
    )
