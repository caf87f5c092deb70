"""What a local stack consists of: the children, their environment, and how each shows that it is ready."""

from __future__ import annotations

import http.client
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from phantom_local.embedded.kafka import KafkaServer, broker_count
from phantom_local.embedded.postgres import PostgresServer
from phantom_local.embedded.process import Launch
from phantom_local.keeper import Child
from phantom_local.layout import HOST, Layout

CONTROL_PORTS = {"grpc": 50051, "metrics": 9464}
GATEWAY_PORTS = {"grpc": 8001, "http": 8000, "metrics": 8002}
KAFKA_PORTS = {"kafka": 9092}


@dataclass(frozen=True)
class StackSettings:
    """What `up` can be told, by options or environment."""

    gateways: int = 1
    kafka_bootstrap: str | None = None  # None: bring our own
    postgres_dsn: str | None = None

    @classmethod
    def from_environment(cls, gateways: int) -> StackSettings:
        """Own servers where PHANTOM_KAFKA_BOOTSTRAP and PHANTOM_POSTGRES_DSN name none."""
        kafka = os.environ.get("PHANTOM_KAFKA_BOOTSTRAP") or None
        return cls(gateways, kafka, os.environ.get("PHANTOM_POSTGRES_DSN") or None)


def kafka_child(layout: Layout) -> Child:
    """The embedded broker."""

    def launch(ports: dict[str, int]) -> Launch:
        return KafkaServer(layout.data_dir / "kafka", port=ports["kafka"]).prepare(log=layout.log("kafka"))

    def why_not_ready(_: int, ports: dict[str, int]) -> str:
        answers = broker_count(HOST, ports["kafka"], timeout_s=1.0) > 0
        return "" if answers else f"no live broker answers on port {ports['kafka']}"

    return Child("kafka", launch, why_not_ready, KAFKA_PORTS, adopts_any=True)


def postgres_server(layout: Layout) -> PostgresServer:
    """The embedded database of this data directory."""
    return PostgresServer(layout.data_dir / "postgres")


def postgres_child(layout: Layout) -> Child:
    """The embedded database."""
    server = postgres_server(layout)

    def launch(_: dict[str, int]) -> Launch:
        return server.prepare(log=layout.log("postgres"))

    def why_not_ready(pid: int, _: dict[str, int]) -> str:
        return "" if server.is_ready(pid) else "does not accept connections yet"

    return Child("postgres", launch, why_not_ready, adopts_any=True)


def control_child(layout: Layout, kafka: str, postgres: str) -> Child:
    """Registry, deployer, monitor and governance in one process."""
    settings = {"PHANTOM_KAFKA_BOOTSTRAP": kafka, "PHANTOM_POSTGRES_DSN": postgres}
    ports = {"PHANTOM_CONTROL_PORT": "grpc", "PHANTOM_METRICS_PORT": "metrics"}
    return _python_child("control", "phantom_local.control", layout, settings, (CONTROL_PORTS, ports))


def gateway_child(layout: Layout, number: int, kafka: str) -> Child:
    """One inference gateway; further ones have their usual ports ten higher each."""
    settings = {"PHANTOM_KAFKA_BOOTSTRAP": kafka, "PHANTOM_GATEWAY_WORKER": str(number)}
    usual = {what: port + 10 * number for what, port in GATEWAY_PORTS.items()}
    ports = {f"PHANTOM_GATEWAY_{what.upper()}_PORT": what for what in GATEWAY_PORTS}
    return _python_child(f"gateway-{number}", "phantom_inference_gateway", layout, settings, (usual, ports))


def _python_child(
    name: str,
    module: str,
    layout: Layout,
    settings: dict[str, str],
    ports: tuple[dict[str, int], dict[str, str]],
) -> Child:
    usual, variables = ports

    def launch(chosen: dict[str, int]) -> Launch:
        numbers = {variable: str(chosen[what]) for variable, what in variables.items()}
        env = {**os.environ, **settings, **numbers, "PHANTOM_DATA_DIR": str(layout.data_dir)}
        return Launch([sys.executable, "-m", module], layout.log(name), env)

    def why_not_ready(_: int, chosen: dict[str, int]) -> str:
        return readiness(chosen["metrics"])

    return Child(name, launch, why_not_ready, usual)


def readiness(port: int) -> str:
    """What /ready on a metrics port says against sending work there; "" when nothing."""
    status, body = http_get(port, "/ready")
    if status == 200:
        return ""
    if status == 0:
        return body
    try:
        reasons: dict[str, Any] = json.loads(body).get("reasons") or {}
    except (ValueError, AttributeError):
        reasons = {}
    return "; ".join(f"{what}: {why}" for what, why in reasons.items()) or f"/ready answers {status}"


def http_get(port: int, path: str, timeout_s: float = 2.0) -> tuple[int, str]:
    """Status and body; status 0 and the reason where nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, f"port {port} does not answer ({type(error).__name__})"
    finally:
        connection.close()
