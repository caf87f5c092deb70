"""Events in: routes as they stand in Kafka, running experiments, and what gateways acknowledge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from phantom_contracts import topics
from phantom_contracts.events.experiment import ExperimentsRecord
from phantom_contracts.events.gateway import GatewayHeartbeat, GatewayJoined, GatewayLeft
from phantom_deployer.bell import Bell
from phantom_deployer.domain.acknowledgement import Acknowledgements, Progress
from phantom_deployer.domain.values import KnownGateway
from phantom_deployer.metrics import Metrics
from phantom_deployer.service.ports import Store
from phantom_platform.clock import Clock
from phantom_platform.errors import Unavailable
from phantom_platform.kafka import Projection
from phantom_platform.kafka.closing import close
from phantom_platform.kafka.failures import CONNECTION_ERRORS
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

# How often the end of route-acks is asked for; well below the gap that counts as an interruption.
LOOK_EVERY_MS = 200
LOOK_TIMEOUT_S = 2.5
SAVE_EVERY_S = 5.0
RETRY_S = 0.5


def routes_projection(
    bootstrap: str,
    acks: Acknowledgements,
    clock: Clock,
    bell: Bell,
    *,
    snapshot: Path | None = None,
    registry: CollectorRegistry | None = None,
) -> Projection[None]:
    """Our own records read back: only what is in Kafka can reach a gateway."""

    def confirm(key: str, version: int) -> None:
        acks.confirm(key, version, clock.monotonic())
        bell.ring()

    return Projection(
        topics.ROUTES,
        bootstrap,
        parse=lambda key, value, headers: None,
        on_changed=lambda key, nothing, version: confirm(key, version),
        on_deleted=confirm,
        # It was there once, says the snapshot: it is published again, and counts from then.
        on_lost=acks.lost,
        snapshot=snapshot,
        registry=registry,
    )


class RunningExperiments:
    """Which revisions running experiments use. `changed` is told the endpoint's key.

    While Kafka has not been read, what the snapshot says is not used to decide: it may name a revision too few, whose
    replicas would be taken away. Routes then stay as Postgres has them.
    """

    def __init__(
        self,
        bootstrap: str,
        changed: Callable[[str], None],
        *,
        snapshot: Path | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._records: dict[str, ExperimentsRecord] = {}
        self._changed = changed
        self.projection: Projection[ExperimentsRecord] = Projection(
            topics.EXPERIMENTS,
            bootstrap,
            parse=lambda key, value, headers: ExperimentsRecord.model_validate_json(value),
            on_changed=self._put,
            on_deleted=self._remove,
            snapshot=snapshot,
            registry=registry,
        )

    def used(self, workspace: str) -> Mapping[str, str] | None:
        """Revision → experiment; None until the topic was read to its end once."""
        if self.projection.is_stale:
            return None
        return {
            revision: experiment.id
            for key, record in self._records.items()
            if key.split("/", 1)[0] == workspace
            for experiment in record.experiments
            for revision in experiment.arms.values()
        }

    def running(self, key: str) -> tuple[str, ...] | None:
        """Ids of the experiments of this endpoint; None until known."""
        if self.projection.is_stale:
            return None
        record = self._records.get(key)
        return tuple(sorted(each.id for each in record.experiments)) if record else ()

    def arms(self, key: str) -> tuple[str, ...] | None:
        """Revisions that experiments of this endpoint use, in a fixed order; None until known."""
        if self.projection.is_stale:
            return None
        record = self._records.get(key)
        experiments = record.experiments if record else ()
        return tuple(sorted({revision for each in experiments for revision in each.arms.values()}))

    def _put(self, key: str, record: ExperimentsRecord, version: int) -> None:
        self._records[key] = record
        self._changed(key)

    def _remove(self, key: str, version: int) -> None:
        self._records.pop(key, None)
        self._changed(key)


class AckReader:
    """A part: reads route-acks, group-less, from where it was left, and looks for its end all the time."""

    name = "route-acks"

    def __init__(
        self,
        bootstrap: str,
        store: Store,
        acks: Acknowledgements,
        clock: Clock,
        bell: Bell,
        metrics: Metrics,
    ) -> None:
        self._bootstrap = bootstrap
        self._store = store
        self._acks = acks
        self._clock = clock
        self._bell = bell
        self._metrics = metrics
        self._task = Task(self.name, self._run)
        self._offsets: dict[int, int] = {}
        self._gone: set[str] = set()
        self._is_urgent = False
        self._next_save = 0.0
        # Set once everything that was in the topic at the start has been read.
        self.current = asyncio.Event()

    def attention(self) -> list[str]:
        """Gateways that were not heard for long while we listened without interruption."""
        return [
            f"gateway {each.boot_id} was not heard for {each.silence_s:.0f} s: withdrawals no longer wait for it"
            for each in self._acks.silent()
        ]

    async def start(self) -> None:
        """Gateways of the table count from here on."""
        self._offsets = await self._store.reads.ack_offsets()
        for each in await self._store.reads.gateways():
            self._acks.join(each.boot_id, each.last_seen)
        await self._task.start()

    async def stop(self) -> None:
        await self._task.stop()
        with suppress(Unavailable):
            await self._save()

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except (*CONNECTION_ERRORS, TimeoutError) as error:
                self._acks.interrupted()
                log.warning("route-acks cannot be read", action="acks_wait", reason=repr(error))
                await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id="phantom.deployer.acks",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=10_000,
        )
        try:
            await consumer.start()
            partitions = [
                TopicPartition(topics.ROUTE_ACKS.name, p) for p in range(topics.ROUTE_ACKS.partitions)
            ]
            consumer.assign(partitions)
            await self._seek(consumer, partitions)
            while True:
                await self._look(consumer, partitions)
        finally:
            await close(consumer)

    async def _seek(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        """To where reading was left; a topic that ends before that was made anew, and is read whole."""
        ends = await consumer.end_offsets(partitions)
        for each in partitions:
            offset = self._offsets.get(each.partition, 0)
            if offset > ends[each]:
                log.warning("route-acks was made anew", action="acks_anew", partition=each.partition)
            consumer.seek(each, offset if offset <= ends[each] else 0)

    async def _look(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        """Take what came; know whether that was all there is."""
        asked_at = self._clock.monotonic()
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            ends = await consumer.end_offsets(partitions)
        await self._take(consumer, timeout_ms=0)
        while not await self._has_reached(consumer, ends):
            await self._take(consumer, timeout_ms=LOOK_EVERY_MS)
        self._acks.at_end(asked_at)
        self.current.set()
        self._gone.update(self._acks.forget())
        silent = len(self._acks.silent())
        self._metrics.gateways.labels("live").set(len(self._acks.gateways) - silent)
        self._metrics.gateways.labels("silent").set(silent)
        await self._save_due()
        self._bell.ring()
        await self._take(consumer, timeout_ms=LOOK_EVERY_MS)

    async def _has_reached(self, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
        for each, end in ends.items():
            if await consumer.position(each) < end:
                return False
        return True

    async def _take(self, consumer: AIOKafkaConsumer, *, timeout_ms: int) -> None:
        polled = await consumer.getmany(timeout_ms=timeout_ms)
        for place, records in polled.items():
            for record in records:
                self._apply(record)
            self._offsets[place.partition] = records[-1].offset + 1

    def _apply(self, record: ConsumerRecord) -> None:
        """One record; what is none of ours is counted and left."""
        kind = next(
            (value.decode("utf-8", "replace") for name, value in record.headers if name == "ce_type"), ""
        )
        seen = datetime.fromtimestamp(record.timestamp / 1000, UTC)
        try:
            self._dispatch(kind, record.value or b"", seen)
        except ValidationError as error:
            self._metrics.bad_acks.inc()
            log.warning(
                "route-ack cannot be read",
                action="ack_bad",
                partition=record.partition,
                offset=record.offset,
                reason=str(error.errors()[0]["msg"]),
            )

    def _dispatch(self, kind: str, value: bytes, seen: datetime) -> None:
        if kind == GatewayHeartbeat.type:
            beat = GatewayHeartbeat.model_validate_json(value)
            progress = {key: Progress(each.applied, each.drained) for key, each in beat.endpoints.items()}
            self._note(beat.boot_id, self._acks.heartbeat(beat.boot_id, progress, seen))
        elif kind == GatewayJoined.type:
            joined = GatewayJoined.model_validate_json(value)
            self._note(joined.boot_id, self._acks.join(joined.boot_id, seen))
        elif kind == GatewayLeft.type:
            left = GatewayLeft.model_validate_json(value)
            self._acks.leave(left.boot_id)
            self._gone.add(left.boot_id)
            self._is_urgent = True

    def _note(self, boot_id: str, is_new: bool) -> None:
        if is_new:
            self._gone.discard(boot_id)
            self._is_urgent = True

    async def _save_due(self) -> None:
        """Offsets never run ahead of the gateways that were met before them."""
        now = self._clock.monotonic()
        if not self._is_urgent and now < self._next_save:
            return
        self._next_save = now + SAVE_EVERY_S
        try:
            await self._save()
        except Unavailable as error:
            log.warning("gateways are not saved", action="acks_save_wait", reason=str(error))

    async def _save(self) -> None:
        gone, offsets = set(self._gone), dict(self._offsets)
        now = self._clock.now()
        seen = [KnownGateway(g.boot_id, g.last_seen or now) for g in self._acks.gateways.values()]
        async with self._store.transaction() as work:
            await work.save_gateways(seen, gone, offsets)
        self._gone -= gone
        self._is_urgent = False
