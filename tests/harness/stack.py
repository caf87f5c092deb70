"""A whole local stack in a folder of its own, on free ports, that cannot outlive the test session."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from phantom_platform.identity.keys import encode_public_key
from phantom_platform.identity.tokens import SigningKey

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 150
STOP_WITHIN_S = 120
_PORTS = (
    "KAFKA_PORT",
    "CONTROL_PORT",
    "METRICS_PORT",
    "GATEWAY_GRPC_PORT",
    "GATEWAY_HTTP_PORT",
    "GATEWAY_METRICS_PORT",
)
# Holds `down` back until the pipe of the test process closes: at the end, or when that process is killed.
_GUARD = 'cat >/dev/null; exec "$1" -m phantom_local down --data-dir "$2"'


@dataclass(frozen=True)
class Stack:
    """Where everything is."""

    data_dir: Path
    control: str
    kafka: str
    grpc: str
    http: str
    metrics: str
    control_metrics: str

    @classmethod
    def of(cls, data_dir: Path) -> Stack:
        """As `up` wrote it down."""
        stack: dict[str, Any] = json.loads((data_dir / "run" / "stack.json").read_text())
        gateway = stack["gateways"][0]
        return cls(
            data_dir,
            stack["control_address"],
            stack["kafka_bootstrap"],
            gateway["grpc"],
            gateway["http"],
            gateway["metrics"],
            stack["control_metrics"],
        )

    @property
    def admin_password(self) -> str:
        """The administrator's first password."""
        return (self.data_dir / "secrets" / "admin-password").read_text().strip()

    def artifact(self, digest: str) -> Path:
        """The stored bytes of `sha256:<hex>`."""
        sha256 = digest.removeprefix("sha256:")
        return self.data_dir / "artifacts" / "sha256" / sha256[:2] / sha256

    def signing_key(self) -> SigningKey:
        """With which governance signs tokens: tests make expired ones with it."""
        pem = (self.data_dir / "secrets" / "signing-key.pem").read_bytes()
        private = load_pem_private_key(pem, password=None)
        assert isinstance(private, Ed25519PrivateKey)
        public = encode_public_key(private.public_key())
        return SigningKey(hashlib.sha256(public.encode()).hexdigest()[:16], private)

    @property
    def datasets(self) -> Path:
        """Where pipelines read datasets from."""
        folder = self.data_dir / "datasets"
        folder.mkdir(exist_ok=True)
        return folder

    def logs(self) -> str:
        """Every log, for a search."""
        files = [*self.data_dir.glob("logs/*.log"), *self.data_dir.glob("replicas/*.log")]
        return "\n".join(file.read_text(errors="replace") for file in files)


@contextmanager
def running_stack(collector: str, keeps_logs: Callable[[], bool]) -> Iterator[Stack]:
    """Everything up, its traces sent to `collector`.

    `PHANTOM_TEST_STACK` names the data directory of a stack that runs already. Nothing is left at the end but, where
    `keeps_logs` says so then, the logs.
    """
    if given := os.environ.get("PHANTOM_TEST_STACK"):
        yield Stack.of(Path(given))
        return
    # Short: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="phantom-e2e-"))
    data_dir = folder / "d"
    argv = ["/bin/sh", "-c", _GUARD, "guard", sys.executable, str(data_dir)]
    log = (folder / "down.log").open("wb")
    guard = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    try:
        _up(data_dir, collector)
        yield Stack.of(data_dir)
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        code = guard.wait(STOP_WITHIN_S)
        log.close()
        said = (folder / "down.log").read_text(errors="replace")
        if keeps_logs():
            _keep_logs(data_dir, folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, f"`down` left something behind: {said}"


def _keep_logs(data_dir: Path, folder: Path) -> None:
    for file in [*data_dir.glob("logs/*.log"), *data_dir.glob("replicas/*.log")]:
        file.replace(folder / f"{file.parent.name}-{file.name}")
    shutil.rmtree(data_dir, ignore_errors=True)
    sys.stderr.write(f"\nthe logs of the stack are in {folder}\n")


def _up(data_dir: Path, collector: str) -> None:
    environment = {**os.environ, **{f"PHANTOM_{each}": "0" for each in _PORTS}}
    # Spans leave after 0.2 s instead of 5.
    environment |= {"PHANTOM_OTLP_ENDPOINT": collector, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    command = [sys.executable, "-m", "phantom_local", "up", "--detach", "--data-dir", str(data_dir)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=START_WITHIN_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
