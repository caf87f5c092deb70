"""The gateway's use cases: answer a call, and say what stands behind an endpoint.

Doors call these methods and map `phantom_platform.errors` to their own statuses.
"""

from __future__ import annotations

from dataclasses import dataclass

from phantom_inference_gateway.calls import Answer, Call, Entry, FailedAttempt

__all__ = ["Answer", "Call", "Entry", "FailedAttempt", "Gateway", "ModelMetadata", "ServerMetadata", "Tensor"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of an endpoint, in OIP's words; -1 where a dimension varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """An endpoint as an OIP model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """This server as OIP describes one."""

    name: str
    version: str
    extensions: tuple[str, ...]


class Gateway:
    """Answers calls. One a process."""

    async def infer(self, call: Call) -> Answer:
        """The answer, also where the call failed after its endpoint was known (`status` is then not 0).

        Raises what has no record: NotFound (endpoint or version), Invalid (unit), Exhausted (shed),
        Unauthenticated, Forbidden.
        """
        raise NotImplementedError

    def server_metadata(self) -> ServerMetadata:
        raise NotImplementedError

    def server_ready(self) -> bool:
        raise NotImplementedError

    def model_ready(self, name: str, version: str, workspace: str) -> bool:
        """False also where there is no such endpoint or version."""
        raise NotImplementedError

    def model_metadata(self, name: str, version: str, workspace: str) -> ModelMetadata:
        """Raises NotFound."""
        raise NotImplementedError
