"""The conditions of a measurement: machine, versions, date, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("grpcio", "protobuf", "uvloop", "xgboost-cpu", "onnxruntime", "numpy", "aiokafka")


def now() -> str:
    """UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def commit() -> str:
    """Short hash; with `+` where files of the product differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", "libs", "services", "deploy")
    return f"{head}+" if dirty else head


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("unknown" if arguments[0] == "rev-parse" else "")


def conditions() -> dict[str, str]:
    """What stands above the table."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "machine": f"{os.cpu_count()} cores ({model}), {platform.system()} {platform.release()}",
        "software": f"Python {platform.python_version()}, "
        + ", ".join(f"{each} {version(each)}" for each in PACKAGES),
        "last run": f"{now()} UTC, commit {commit()}, load average before it {os.getloadavg()[0]:.1f}",
        "work": "binary XGBoost, 45 float32 features, 200 trees of depth 6; ready bytes sent by one process with a "
        "light gRPC client (harness/wire.py), 16 connections; medians over interleaved rounds (min–max)",
        "CPU": "seconds per 1,000 requests; of the serving processes, and beside them Kafka's and the generator's",
    }
