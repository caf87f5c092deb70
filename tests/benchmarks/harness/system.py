"""What can be measured: a system under test, and why one may not be."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"

Headers = tuple[tuple[str, str], ...]


class CannotMeasure(Exception):
    """A system or a measurement could not be brought up, with the reason in words."""


@runtime_checkable
class System(Protocol):
    """A server of the benchmark's model (`model.py`) that the load generator can call.

    `start` returns once `body` is answered rightly; it raises CannotMeasure. `stop` may be called at any time and
    leaves no process behind. Every rate, latency and CPU figure is taken by the harness: a system only says where it
    listens and which processes are its own.
    """

    name: str
    # grpc: a unary method, `body` a serialized message. http: POST of `body`.
    protocol: Literal["grpc", "http"]
    # gRPC method (INFER) or HTTP path.
    path: str
    # One request of one row (`model.row(0)`), and one of 32 rows (`model.rows(32)`), as sent.
    body: bytes
    body32: bytes
    headers: Headers
    # host:port on 127.0.0.1; known once started.
    address: str

    def start(self) -> None:
        """Block until it answers."""
        ...

    def pids(self) -> list[int]:
        """Every serving process; their children are found by the harness."""
        ...

    def check(self, answer: bytes, rows: int = 1) -> None:
        """Raise CannotMeasure unless `answer` holds `model.probabilities(rows)` within 1e-4."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


def bodies_of(system: System, rows: int) -> tuple[bytes, ...]:
    """The requests to send in turn. A system may have several (`bodies`), of different units."""
    if rows == 1:
        several: tuple[bytes, ...] = getattr(system, "bodies", ())
        return several or (system.body,)
    several = getattr(system, "bodies32", ())
    return several or (system.body32,)


def processes_of(system: System) -> dict[str, list[int]]:
    """The system's processes by what they do; one group where it does not tell."""
    parts: dict[str, list[int]] | None = getattr(system, "parts", lambda: None)()
    return parts or {"server": system.pids()}
