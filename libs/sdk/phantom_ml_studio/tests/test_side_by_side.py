"""The SDK and other clients of the protocol in one process: each has its own protobuf package `inference`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
CLIENTS = Path(os.environ.get("PHANTOM_CACHE_DIR") or ROOT / ".cache") / "clients"

USE_BOTH = """
import sys
from phantom_ml_studio import oip
{first}
ours = oip.message("ModelInferRequest")(model_name="ours")
{theirs}
assert theirs.FromString(ours.SerializeToString()).model_name == "ours"
assert theirs is not type(ours)
from phantom_ml_studio import Client, InferenceClient, ModelRegistry
"""
GENERATED = "from inference.grpc_service_pb2 import ModelInferRequest as theirs"
TRITON = "from tritonclient.grpc.service_pb2 import ModelInferRequest as theirs; import tritonclient.grpc"


def run(code: str, *paths: Path) -> None:
    """In a process of its own, behind our packages."""
    append = f"import sys; sys.path += {[str(path) for path in paths]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", append + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_the_sdk_stands_beside_generated_stubs_of_the_protocol(order: str) -> None:
    run(USE_BOTH.format(first=GENERATED if order == "theirs first" else "", theirs=GENERATED))


@pytest.mark.clients
@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_the_sdk_stands_beside_tritonclient(order: str) -> None:
    (packages,) = (CLIENTS / "triton" / "lib").glob("python3*/site-packages")
    run(USE_BOTH.format(first=TRITON if order == "theirs first" else "", theirs=TRITON), packages)


def test_the_sdk_does_not_register_the_protocols_package() -> None:
    run(
        "from phantom_ml_studio import oip, InferenceClient\n"
        "oip.message('ModelInferRequest')()\n"
        "from google.protobuf import descriptor_pool\n"
        "try: descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest')\n"
        "except KeyError: sys.exit(0)\n"
        "sys.exit('inference is in the default pool')"
    )
