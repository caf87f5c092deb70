"""A gateway as far as routes go: it reads phantom.routes.v1 and writes phantom.route-acks.v1, both for real."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, TopicPartition

from phantom_contracts import topics
from phantom_contracts.events.base import Event
from phantom_contracts.events.deployer import RouteRecord
from phantom_contracts.events.gateway import EndpointProgress, GatewayHeartbeat, GatewayJoined, GatewayLeft
from phantom_platform.cloudevents import version_in
from phantom_platform.ids import new_id
from phantom_platform.kafka import Producer
from phantom_platform.testing.events import publish, record

HEARTBEAT_S = 0.2


class SimulatedGateway:
    """`is_held`: has work under old versions, so it applies new ones and drains none. `cut_off`: no Kafka."""

    def __init__(self, bootstrap: str, producer: Producer) -> None:
        self.boot_id = f"g-{new_id()}"
        self._bootstrap = bootstrap
        self._producer = producer
        # endpoint key → version → replicas that it names
        self.versions: dict[str, dict[int, frozenset[str]]] = {}
        self.applied: dict[str, int] = {}
        self.drained: dict[str, int] = {}
        self.is_held = False
        self.is_alive = False
        self._tasks: list[asyncio.Task[None]] = []
        self._consumer: AIOKafkaConsumer | None = None

    def may_use(self, key: str) -> frozenset[str]:
        """Replicas that some attempt may still go to."""
        drained = self.drained.get(key, 0)
        return frozenset(
            each
            for version, replicas in self.versions.get(key, {}).items()
            if version >= drained
            for each in replicas
        )

    async def start(self) -> SimulatedGateway:
        """Joins, then reads the routes to their end."""
        await self._write(GatewayJoined(boot_id=self.boot_id))
        place = TopicPartition(topics.ROUTES.name, 0)
        self._consumer = consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap)
        await consumer.start()
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < end:
            await self._apply(consumer)
        self.drained.update(self.applied)
        self.is_alive = True
        self._tasks = [asyncio.create_task(self._follow(consumer)), asyncio.create_task(self._beat())]
        return self

    async def leave(self) -> None:
        """Its last answer is out."""
        await self.cut_off()
        self.is_alive = False
        await self._write(GatewayLeft(boot_id=self.boot_id))

    async def kill(self) -> None:
        await self.cut_off()
        self.is_alive = False

    async def cut_off(self) -> None:
        """Kafka is out of its reach from now on; it serves on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._consumer is not None:
            with suppress(Exception):
                await self._consumer.stop()
            self._consumer = None

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            await self._apply(consumer)

    async def _apply(self, consumer: AIOKafkaConsumer) -> None:
        for records in (await consumer.getmany(timeout_ms=100)).values():
            for each in records:
                key, version = each.key.decode(), version_in(each.headers) or 0
                named: frozenset[str] = frozenset()
                if each.value is not None:
                    route = RouteRecord.model_validate_json(each.value)
                    named = frozenset(replica.id for r in route.revisions for replica in r.replicas)
                if version > self.applied.get(key, 0):
                    self.versions.setdefault(key, {})[version] = named
                    self.applied[key] = version

    async def _beat(self) -> None:
        while True:
            if not self.is_held:
                self.drained.update(self.applied)
            progress = {
                key: EndpointProgress(applied=version, drained=self.drained.get(key, 0))
                for key, version in self.applied.items()
            }
            await self._write(GatewayHeartbeat(boot_id=self.boot_id, endpoints=progress))
            await asyncio.sleep(HEARTBEAT_S)

    async def _write(self, event: Event) -> None:
        await publish(self._producer, record(topics.ROUTE_ACKS, self.boot_id, event))
