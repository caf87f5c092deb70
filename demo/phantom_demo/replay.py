"""Flights as Open Inference Protocol traffic, in time order, and their outcomes as CloudEvents on Kafka."""

from __future__ import annotations

import asyncio
import struct
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import numpy as np
from aiokafka import AIOKafkaProducer

from phantom_contracts.events.upstream import OutcomeReported
from phantom_contracts.topics import OUTCOMES
from phantom_demo.flights import ALL, CATEGORIES, Flights
from phantom_ml_studio import oip

IN_FLIGHT = 32
CONNECTIONS = 16
DEADLINE_S = 30.0
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(slots=True)
class Answered:
    """One call and how it ended. `route_version` is 0 where it failed."""

    flight: int  # index into Flights
    prediction_id: str
    revision: str
    variant: str
    route_version: int
    fallback: bool
    error: str
    latency_ms: float
    sent_at: float = field(default=0.0, kw_only=True)  # unix seconds


@dataclass
class Ledger:
    """Every call, as the client saw it."""

    calls: list[Answered] = field(default_factory=list)
    outcomes: int = 0


def encode_requests(
    flights: Flights, span: range, endpoint: str, columns: Sequence[str], run: str
) -> list[bytes]:
    """One serialised ModelInferRequest a flight of the span: a named tensor a feature, the tail number as unit."""
    Request = oip.message("ModelInferRequest")  # noqa: N806 - a class
    template = Request(model_name=endpoint)
    for name in columns:
        template.inputs.add(name=name, datatype="BYTES" if name in CATEGORIES else "FP64", shape=[1, 1])
    values: dict[str, Any] = {
        name: _texts(flights.features[name])
        if name in CATEGORIES
        else flights.features[name].to_numpy(dtype="<f8")
        for name in columns
    }
    encoded = []
    for i in span:
        request = Request()
        request.CopyFrom(template)
        request.id = request_id(run, flights, i)
        if flights.tail[i]:
            request.parameters["tailnum"].string_param = flights.tail[i]
        request.raw_input_contents.extend(
            values[name][i] if name in CATEGORIES else values[name][i].tobytes() for name in columns
        )
        encoded.append(request.SerializeToString())
    return encoded


def request_id(run: str, flights: Flights, i: int) -> str:
    """The application's own id of a call."""
    return f"{run}-{flights.row[i]}"


@dataclass(frozen=True)
class Target:
    """Whom to call and where to report. `run` makes request ids of this run unlike any other's."""

    endpoint: str
    gateway: str
    kafka: str
    run: str


class Replay:
    """Sends the flights of `span` in order, at most 32 in flight, and reports each one's outcome once it is answered.

    `rate`: at most so many a second; None: as fast as they are answered.
    """

    def __init__(self, flights: Flights, span: range, target: Target, rate: float | None = None) -> None:
        self.ledger = Ledger()
        self._flights = flights
        self._span = span
        self._requests = encode_requests(flights, span, target.endpoint, ALL, target.run)
        self._target = target
        self._rate = rate
        self._began = 0.0
        self._next = 0
        self._is_stopped = False
        self._moved = asyncio.Event()
        self._reports: asyncio.Queue[int | None] = asyncio.Queue()

    @property
    def share_done(self) -> float:
        """Of the span, 0 to 1."""
        return len(self.ledger.calls) / len(self._requests)

    def stop(self) -> None:
        """No further calls; those in flight are awaited."""
        self._is_stopped = True

    async def reached(self, share: float) -> None:
        """Returns once this share of the flights has been answered."""
        while self.share_done < share:
            self._moved.clear()
            await self._moved.wait()

    async def run(self) -> Ledger:
        """The whole span; returns when every call has ended and every outcome is acknowledged by Kafka."""
        self._began = time.perf_counter()
        reporter = asyncio.create_task(self._report())
        channels = [
            grpc.aio.insecure_channel(self._target.gateway, options=_OPTIONS) for _ in range(CONNECTIONS)
        ]
        try:
            await asyncio.gather(*(self._send(channels[i % CONNECTIONS]) for i in range(IN_FLIGHT)))
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))
            self._reports.put_nowait(None)
            await reporter
        return self.ledger

    async def _send(self, channel: grpc.aio.Channel) -> None:
        infer: Callable[..., Any] = channel.unary_unary(f"{oip.SERVICE}/ModelInfer")
        while self._next < len(self._requests) and not self._is_stopped:
            place = self._next
            self._next += 1
            await self._turn(place)
            i = self._span[place]
            sent_at, began = time.time(), time.perf_counter()
            call = infer(self._requests[place], timeout=DEADLINE_S)
            metadata: dict[str, str] = {}
            error = ""
            try:
                metadata = {key: str(value) for key, value in await call.initial_metadata() or ()}
                await call
            except grpc.aio.AioRpcError as failure:
                error = f"{failure.code().name}: {failure.details()}"
            latency_ms = (time.perf_counter() - began) * 1000
            self.ledger.calls.append(_answered(i, metadata, error, latency_ms, sent_at))
            self._moved.set()
            if not np.isnan(self._flights.late[i]):
                self._reports.put_nowait(i)

    async def _turn(self, place: int) -> None:
        """Returns when the call's time has come."""
        if self._rate is not None:
            await asyncio.sleep(max(0.0, self._began + place / self._rate - time.perf_counter()))

    async def _report(self) -> None:
        """As an upstream system would: CloudEvents on Kafka, keyed by the application's own request id."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._target.kafka, enable_idempotence=True, linger_ms=5
        )
        await producer.start()
        try:
            pending = []
            while (i := await self._reports.get()) is not None:
                event = self._outcome(i)
                value, headers = event.model_dump_json().encode(), _cloud_event(event)
                pending.append(
                    await producer.send(OUTCOMES.name, value, key=event.key.encode(), headers=headers)
                )
                self.ledger.outcomes += 1
            await asyncio.gather(*pending)
        finally:
            await producer.stop()

    def _outcome(self, i: int) -> OutcomeReported:
        return OutcomeReported(
            endpoint=self._target.endpoint,
            request_id=request_id(self._target.run, self._flights, i),
            event_time=datetime.now(UTC),
            label=bool(self._flights.late[i]),
        )


def _answered(i: int, metadata: dict[str, str], error: str, latency_ms: float, sent_at: float) -> Answered:
    return Answered(
        flight=i,
        prediction_id=metadata.get("phantom-prediction-id", ""),
        revision=metadata.get("phantom-revision", ""),
        variant=metadata.get("phantom-variant", ""),
        route_version=int(metadata.get("phantom-route-version", "0")),
        fallback=metadata.get("phantom-fallback") == "true",
        error=error,
        latency_ms=latency_ms,
        sent_at=sent_at,
    )


def _cloud_event(event: OutcomeReported) -> list[tuple[str, bytes]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(uuid.uuid4()).encode()),
        ("ce_source", b"https://flights.example/arrivals"),
        ("ce_type", event.type.encode()),
        ("ce_time", event.event_time.isoformat().encode()),
        ("content-type", b"application/json"),
    ]


def _texts(column: Any) -> list[bytes]:
    return [struct.pack("<I", len(text)) + text for text in (str(value).encode() for value in column)]
