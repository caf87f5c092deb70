"""What can be set about the pipelines service. Only `app.py` reads this class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from phantom_contracts.launch import Runtime


class PipelinesSettings(BaseSettings):
    """`PHANTOM_PIPELINES_*`."""

    model_config = SettingsConfigDict(env_prefix="PHANTOM_PIPELINES_", frozen=True, extra="ignore")

    concurrency: int = Field(
        default=16, ge=1, le=256, description="executions whose stages run at once; others wait, oldest first"
    )
    unavailable_attempts: int = Field(
        default=100, ge=1, description="attempts in a row at a stage while something that it needs is away"
    )
    unavailable_s: float = Field(
        default=1800.0,
        gt=0,
        description="s of such attempts, after which the stage fails with the last reason",
    )
    executions_kept_days: int = Field(
        default=90, ge=1, description="days after its end that an execution, its stages and its log are kept"
    )
    contexts_kept_days: int = Field(
        default=30, ge=1, description="days after the last execution's end that a build context is kept"
    )
    poll_s: float = Field(
        default=1.0, gt=0, le=60, description="s between two looks at a deployment or a rollout in progress"
    )
    builder: Literal["auto", "docker", "buildah", "none"] = Field(
        default="auto",
        description="what builds images here; auto: docker where its daemon answers, else buildah, else nothing",
    )
    builder_options: str = Field(default="", description="further options of every build, as in a shell")
    build_timeout_s: float = Field(default=1800.0, gt=0, description="longest build of an image, s")
    push_timeout_s: float = Field(default=900.0, gt=0, description="longest push of an image, s")
    push_registries: str = Field(
        default="",
        description="registries, by comma, that images may be pushed to; credentials are the builder's",
    )
    image_packages: Literal["vendor", "index"] = Field(
        default="vendor",
        description="vendor: this process's pip fetches an image's packages, so that builds need no network; index: "
        "pip fetches them in the build, from the index that it is set up for there",
    )
    requirements_lock: Path | None = Field(
        default=None, description="the lock that pins an image's packages; none: that of the checkout"
    )
    gateway: str = Field(
        default="",
        description="host:port of a gateway's gRPC door, for test suites; empty: the first one of the stack that runs "
        "from the data directory, else 127.0.0.1:8001",
    )
    dataset_roots: str = Field(
        default="",
        description="further folders, as in PATH, that registered datasets are read from, besides <data dir>/datasets: "
        "whoever may register a dataset can have any .csv, .jsonl or .parquet file below them read",
    )
    advisories: Path | None = Field(
        default=None, description="JSON file of OSV records: known-bad versions for dependency checks"
    )
    advisories_max_age_days: int = Field(
        default=0, ge=0, description="days; an older snapshot counts as none; 0: any age"
    )
    ready_timeout_s: float = Field(
        default=120.0, gt=0, description="s; a version that is to be measured must serve by then"
    )
    allow_pickle: bool = Field(
        default=False,
        description="the operator trusts pickled scikit-learn artifacts, which run code when loaded: as the deployer's",
    )
    model_threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="compute threads of a measured version: as the deployer's replicas",
    )
    model_runtime: Runtime = Field(
        default="auto", description="of a measured version: as the deployer's replicas"
    )
    latency_calls: int = Field(default=1000, ge=73, le=100_000, description="calls of a latency measurement")
    throughput_s: float = Field(default=10.0, gt=0, le=600, description="s that throughput is measured for")
    warm_up_s: float = Field(
        default=2.0, ge=0, le=600, description="s of calls before throughput is measured"
    )

    @field_validator("dataset_roots")
    @classmethod
    def _are_absolute(cls, value: str) -> str:
        for each in filter(None, value.split(os.pathsep)):
            if not Path(each).is_absolute():
                raise ValueError(f"{each!r} is no absolute path; folders are parted by {os.pathsep!r}")
        return value
