"""What the deployer says to a replica: Describe and Drain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom.modelserver.v1.model_server_service_pb2_grpc import ModelServerServiceStub
from phantom_platform.rpc.client import translated

if TYPE_CHECKING:  # a type of the stubs only, there is no such class
    from phantom.modelserver.v1.model_server_service_pb2_grpc import ModelServerServiceAsyncStub as AsyncStub

DESCRIBE_TIMEOUT_S = 1.0
DRAIN_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Described:
    """Who answered, and how it is: `loading`, `ready`, `draining`, `failed`."""

    replica_id: str
    revision: str
    digest: str
    state: str


class ReplicaCalls:
    """One connection a replica, to the address that it had last."""

    def __init__(self) -> None:
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}

    async def describe(self, replica_id: str, address: str) -> Described | None:
        """None where nobody answers."""
        stub = await self._stub(replica_id, address)
        try:
            answer = await stub.Describe(pb.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_S)
        except grpc.RpcError:
            return None
        return Described(answer.replica_id, answer.revision, answer.digest, answer.state)

    async def drain(
        self, replica_id: str, address: str, drain_key: str, record_json: str, timeout_ms: int
    ) -> None:
        """Answers at once; the replica ends when it is idle. Raises what went wrong."""
        stub = await self._stub(replica_id, address)
        request = pb.DrainRequest(
            route_record=record_json.encode(), timeout_ms=timeout_ms, drain_key=drain_key
        )
        with translated():
            await stub.Drain(request, timeout=DRAIN_TIMEOUT_S)

    async def forget(self, replica_id: str) -> None:
        known = self._channels.pop(replica_id, None)
        if known is not None:
            await known[1].close()

    async def close(self) -> None:
        for replica_id in list(self._channels):
            await self.forget(replica_id)

    async def _stub(self, replica_id: str, address: str) -> AsyncStub:
        known = self._channels.get(replica_id)
        if known is not None and known[0] == address:
            return ModelServerServiceStub(known[1])
        await self.forget(replica_id)
        # A dead address is given up at once, and tried again by the next look.
        channel = grpc.aio.insecure_channel(address, options=(("grpc.max_reconnect_backoff_ms", 1000),))
        self._channels[replica_id] = (address, channel)
        return ModelServerServiceStub(channel)
