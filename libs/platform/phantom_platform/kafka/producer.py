"""Records out: idempotent, acknowledged by every in-sync replica."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata

from phantom_platform.cloudevents import Headers
from phantom_platform.errors import Unavailable
from phantom_platform.kafka.failures import CONNECTION_ERRORS, as_phantom
from phantom_platform.lifecycle import Task
from phantom_platform.outgoing import Outgoing
from phantom_platform.telemetry import logs

log = logs.get(__name__)

# The broker takes batches up to 1 MiB by default (our topics 2 MiB); one record may be a batch of its own.
MAX_BATCH_BYTES = 900_000
MAX_REQUEST_BYTES = 4 * 1024 * 1024
CONNECT_PATIENCE_S = 10.0
STOP_PATIENCE_S = 10.0
_partition_of = DefaultPartitioner()


class Producer:
    """A part. `start` returns at once; while Kafka is away it connects in the background.

    Sends raise `Unavailable` when Kafka cannot be reached and `Invalid` when a record is too large. A send that
    failed may still arrive, so whoever repeats it must be harmless to repeat.
    """

    def __init__(self, bootstrap: str, *, client_id: str) -> None:
        self.name = f"producer:{client_id}"
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._inner: AIOKafkaProducer | None = None
        self._connected = asyncio.Event()
        self._order: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pending: set[asyncio.Future[RecordMetadata]] = set()
        self._connecting = Task(f"{self.name}:connect", self._keep_connected)
        self._lost = asyncio.Event()
        self._is_stopping = False

    async def start(self) -> None:
        self._lost.set()
        await self._connecting.start()

    async def stop(self) -> None:
        """Sends what is pending, for at most 10 s."""
        self._is_stopping = True
        await self._connecting.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), STOP_PATIENCE_S)
        inner, self._inner = self._inner, None
        self._connected.clear()
        if inner is not None:
            await _abandon(inner)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        *,
        partition: int | None = None,
    ) -> RecordMetadata:
        """Returns when Kafka has acknowledged: topic, partition, offset."""
        return await self.send_nowait(topic, key, value, headers, partition=partition)

    def send_nowait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        *,
        partition: int | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Queues a record, after those queued for its topic before; the future ends with the acknowledgement.

        Cancelling the future does not take back a record that was handed over.
        """
        future: asyncio.Future[RecordMetadata] = asyncio.ensure_future(
            self._send(topic, key, value, headers, partition)
        )
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def send_batch(self, topic: str, partition: int, records: Sequence[Outgoing]) -> int:
        """Sends the first of `records` as one Kafka batch, all or nothing; returns how many they were."""
        inner = await self._connection()
        batch = inner.create_batch()
        count = 0
        for record in records:
            if count and batch.size() + len(record.value or b"") > MAX_BATCH_BYTES:
                break
            if (
                batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
                is None
            ):
                break
            count += 1
        batch.close()
        with self._translated(topic):
            acknowledgement = await inner.send_batch(batch, topic, partition=partition)
        await self._acknowledged(inner, topic, acknowledgement)
        return count

    def choose(self, key: bytes | None, partitions: list[int]) -> int:
        """Where a key belongs: the partition that every Kafka client takes by default."""
        return int(_partition_of(key, partitions, partitions))

    async def partitions(self, topic: str) -> list[int]:
        """The topic's partitions; `Unavailable` where Kafka is away or does not know the topic."""
        inner = await self._connection()
        with self._translated(topic):
            return sorted(await inner.partitions_for(topic))

    async def flush(self) -> None:
        """Returns when nothing is pending; failures are the senders' to see."""
        while self._pending:
            await asyncio.wait(list(self._pending))

    async def _send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None
    ) -> RecordMetadata:
        inner = await self._connection()
        async with self._order[topic]:
            with self._translated(topic):
                acknowledgement = await inner.send(topic, value, key, partition=partition, headers=headers)
        return await self._acknowledged(inner, topic, acknowledgement)

    async def _acknowledged(
        self, inner: AIOKafkaProducer, topic: str, acknowledgement: asyncio.Future[RecordMetadata]
    ) -> RecordMetadata:
        """After a failure the client's sequence numbers have a gap that brokers refuse: it is replaced."""
        try:
            return await acknowledgement
        except CONNECTION_ERRORS as error:
            if self._inner is inner:
                log.warning(
                    "replacing the producer", action="producer_replaced", client=self.name, reason=str(error)
                )
                self._inner = None
                self._connected.clear()
                self._lost.set()
                await _abandon(inner)
            raise as_phantom(error, f"sending to {topic}") from error

    @contextmanager
    def _translated(self, topic: str) -> Iterator[None]:
        try:
            yield
        except CONNECTION_ERRORS as error:
            raise as_phantom(error, f"sending to {topic}") from error

    async def _connection(self) -> AIOKafkaProducer:
        if self._inner is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._connected.wait(), CONNECT_PATIENCE_S)
        if self._inner is None:
            raise Unavailable(f"Kafka at {self._bootstrap} cannot be reached", code="kafka_unavailable")
        return self._inner

    async def _keep_connected(self) -> None:
        delay = 0.1
        # aiokafka swallows a cancellation that comes while it closes a client: the flag is what counts.
        while not self._is_stopping:
            await self._lost.wait()
            inner = self._make()
            try:
                await inner.start()
            except CONNECTION_ERRORS as error:
                await _abandon(inner)
                log.warning("waiting for Kafka", action="kafka_wait", client=self.name, reason=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
                continue
            except asyncio.CancelledError:
                await _abandon(inner)
                raise
            self._lost.clear()
            self._inner, delay = inner, 0.1
            self._connected.set()

    def _make(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_REQUEST_BYTES,
            retry_backoff_ms=50,
        )


async def _abandon(inner: AIOKafkaProducer) -> None:
    """Close without waiting for what is pending, which fails. aiokafka has no public way to do so."""
    inner._closed = True
    inner._message_accumulator.fail_all(KafkaConnectionError("the producer was replaced"))
    sender = inner._sender.sender_task if inner._sender is not None else None
    while sender is not None and not sender.done():
        # The first cancellation makes it wait for its requests, which a frozen broker never answers.
        sender.cancel()
        await asyncio.wait([sender], timeout=0.1)
    await _quietly(inner.client.close())


async def _quietly(closing: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(closing, 2.0)
    except Exception as error:
        log.debug("producer did not close cleanly", action="producer_close", reason=str(error))
