"""What gateways write about themselves: phantom.route-acks.v1, key = boot id, time = Kafka's log append time."""

from __future__ import annotations

from typing import ClassVar

from phantom_contracts.events.base import Event, Value


class GatewayJoined(Event):
    type: ClassVar[str] = "phantom.gateway.GatewayJoined.v1"
    boot_id: str
    host: str = ""
    pid: int = 0


class EndpointProgress(Value):
    """What a gateway has done with an endpoint's records; versions, 0 where none."""

    applied: int
    # Every attempt whose replica was chosen under an older version has ended.
    drained: int
    experiment: int = 0


class GatewayHeartbeat(Event):
    type: ClassVar[str] = "phantom.gateway.GatewayHeartbeat.v1"
    boot_id: str
    # Route key `<workspace>/<endpoint>` → progress.
    endpoints: dict[str, EndpointProgress]
    in_flight: int = 0


class GatewayLeft(Event):
    """After the last answer, on SIGTERM."""

    type: ClassVar[str] = "phantom.gateway.GatewayLeft.v1"
    boot_id: str
