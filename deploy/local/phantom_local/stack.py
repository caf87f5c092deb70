"""What a local stack consists of: the children, their environment, and how each shows that it is ready."""

from __future__ import annotations

import http.client
import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from phantom_local.embedded.kafka import KafkaServer, broker_count
from phantom_local.embedded.postgres import PostgresServer
from phantom_local.embedded.process import Launch
from phantom_local.keeper import Child
from phantom_local.layout import HOST, Layout

# What each port is called, and the variable by which a process is told it and a user may choose the usual one.
CONTROL_PORTS = {"grpc": ("PHANTOM_CONTROL_PORT", 50051), "metrics": ("PHANTOM_METRICS_PORT", 9464)}
GATEWAY_PORTS = {
    "grpc": ("PHANTOM_GATEWAY_GRPC_PORT", 8001),
    "http": ("PHANTOM_GATEWAY_HTTP_PORT", 8000),
    "metrics": ("PHANTOM_GATEWAY_METRICS_PORT", 8002),
}
KAFKA_PORTS = {"kafka": ("PHANTOM_KAFKA_PORT", 9092)}
_NEXT_GATEWAY = 10  # ports of gateway n: n times this higher

Ports = dict[str, tuple[str, int]]


@dataclass(frozen=True)
class StackSettings:
    """What `up` can be told, by options or environment."""

    gateways: int = 1
    gateway_workers: int = 1  # processes of each gateway, behind its ports
    kafka_bootstrap: str | None = None  # None: bring our own
    postgres_dsn: str | None = None
    control_ports: Ports = field(default_factory=lambda: dict(CONTROL_PORTS))
    gateway_ports: Ports = field(default_factory=lambda: dict(GATEWAY_PORTS))
    kafka_ports: Ports = field(default_factory=lambda: dict(KAFKA_PORTS))

    @classmethod
    def from_environment(cls, gateways: int, gateway_workers: int = 1) -> StackSettings:
        """Own servers where PHANTOM_KAFKA_BOOTSTRAP and PHANTOM_POSTGRES_DSN name none.

        Raises ValueError naming a port variable that is no port.
        """
        return cls(
            gateways,
            gateway_workers,
            os.environ.get("PHANTOM_KAFKA_BOOTSTRAP") or None,
            os.environ.get("PHANTOM_POSTGRES_DSN") or None,
            _from_environment(CONTROL_PORTS),
            _from_environment(GATEWAY_PORTS),
            _from_environment(KAFKA_PORTS),
        )


def _from_environment(ports: Ports) -> Ports:
    return {what: (variable, _port(variable, usual)) for what, (variable, usual) in ports.items()}


def _port(variable: str, usual: int) -> int:
    text = os.environ.get(variable)
    if not text:
        return usual
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise ValueError(f"{variable} is {text!r}: a port from 1 to 65535 is expected, or 0 for any free one")
    return int(text)


def kafka_child(layout: Layout, settings: StackSettings) -> Child:
    """The embedded broker."""

    def launch(ports: dict[str, int]) -> Launch:
        return KafkaServer(layout.data_dir / "kafka", port=ports["kafka"]).prepare(log=layout.log("kafka"))

    def why_not_ready(_: int, ports: dict[str, int]) -> str:
        answers = broker_count(HOST, ports["kafka"], timeout_s=1.0) > 0
        return "" if answers else f"no live broker answers on port {ports['kafka']}"

    usual = {what: port for what, (_, port) in settings.kafka_ports.items()}
    return Child("kafka", launch, why_not_ready, usual, adopts_any=True)


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


def control_child(layout: Layout, settings: StackSettings, kafka: str, postgres: str) -> Child:
    """Registry, deployer, monitor, pipelines and governance in one process."""
    env = {
        "PHANTOM_KAFKA_BOOTSTRAP": kafka,
        "PHANTOM_POSTGRES_DSN": postgres,
        # The one control process: where it runs, no process with older code is left.
        "PHANTOM_RUN_POST_MIGRATIONS": "true",
        # It starts other programs and never goes on in a forked copy: gRPC need not stop its threads at each start.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    return _python_child(("control", "phantom_local.control"), layout, env, settings.control_ports)


def gateway_child(layout: Layout, settings: StackSettings, number: int, kafka: str) -> Child:
    """One inference gateway, of one process or several."""
    env = {
        "PHANTOM_KAFKA_BOOTSTRAP": kafka,
        "PHANTOM_GATEWAY_WORKER": str(number),
        "PHANTOM_GATEWAY_WORKERS": str(settings.gateway_workers),
    }
    ports = {
        what: (variable, usual + _NEXT_GATEWAY * number if usual else 0)
        for what, (variable, usual) in settings.gateway_ports.items()
    }
    return _python_child((f"gateway-{number}", "phantom_inference_gateway"), layout, env, ports)


def _python_child(names: tuple[str, str], layout: Layout, settings: dict[str, str], ports: Ports) -> Child:
    name, module = names

    def launch(chosen: dict[str, int]) -> Launch:
        numbers = {variable: str(chosen[what]) for what, (variable, _) in ports.items()}
        env = {**os.environ, **settings, **numbers, "PHANTOM_DATA_DIR": str(layout.data_dir)}
        return Launch([sys.executable, "-m", module], layout.log(name), env)

    def why_not_ready(_: int, chosen: dict[str, int]) -> str:
        return readiness(chosen["metrics"])

    return Child(name, launch, why_not_ready, {what: usual for what, (_, usual) in ports.items()})


def readiness(port: int) -> str:
    """What /ready on a metrics port says against sending work there; "" when nothing."""
    return ask(port)[0]


def ask(port: int) -> tuple[str, list[str]]:
    """What /ready says against sending work there, and what an operator should look at all the same."""
    status, text = http_get(port, "/ready")
    if status == 0:
        return text, []
    try:
        body: dict[str, Any] = json.loads(text)
        reasons, attention = body.get("reasons") or {}, body.get("attention") or []
        why = "; ".join(f"{what}: {said}" for what, said in reasons.items())
    except (ValueError, AttributeError):
        why, attention = "", []
    return ("" if status == 200 else why or f"/ready answers {status}"), [str(line) for line in attention]


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
