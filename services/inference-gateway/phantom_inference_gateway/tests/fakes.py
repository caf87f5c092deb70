"""A model server that speaks the frame protocol over real gRPC and does what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from inference import grpc_service_pb2 as oip
from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom.modelserver.v1 import model_server_service_pb2_grpc as pb_grpc
from phantom.predictions.v1 import prediction_batch_pb2 as predictions
from phantom_contracts.events.deployer import BucketRange, Replica, RouteRecord, RouteRevision
from phantom_contracts.schema import Column, EndpointSchema, Feature, ModelSchema
from phantom_inference_gateway.calls import Call, Entry

MODEL_SCHEMA = ModelSchema(
    features=(Feature(name="a"), Feature(name="b", required=False)), class_labels=("no", "yes")
)


@dataclass
class Outcome:
    """What a call gets from the fake: a status with reason, or a response."""

    code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(eq=False)
class FakeModelServer(pb_grpc.ModelServerServiceServicer):
    """`behave(request, server)` decides each call; `frames` and `opens` keep what came."""

    replica_id: str
    revision: str
    behave: Callable[[oip.ModelInferRequest, FakeModelServer], Awaitable[Outcome]] | None = None
    frames: list[pb.RequestFrame] = field(default_factory=list)
    opens: list[pb.Open] = field(default_factory=list)
    # While cleared, frames are taken and not answered.
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _server: grpc.aio.Server | None = None
    _streams: set[asyncio.Queue[pb.FramesResponse | None]] = field(default_factory=set)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def start(self) -> FakeModelServer:
        self.answers.set()
        await self.listen()
        return self

    async def listen(self) -> None:
        server = grpc.aio.server(
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1),
                     ("grpc.max_send_message_length", -1)]
        )  # fmt: skip
        pb_grpc.add_ModelServerServiceServicer_to_server(self, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def kill(self) -> None:
        """Streams die at once, whatever is in execution."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def replica(self) -> Replica:
        return Replica(id=self.replica_id, address=f"127.0.0.1:{self.port}")

    def drain(self, record: bytes = b"") -> None:
        for queue in self._streams:
            queue.put_nowait(pb.FramesResponse(draining=pb.Draining(route_record=record)))

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    @property
    def requests(self) -> list[bytes]:
        return [request for frame in self.frames for request in frame.requests]

    async def got(self, count: int) -> None:
        """Returns when so many requests have come."""
        async with asyncio.timeout(5), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def Frames(
        self, requests: AsyncIterator[pb.FramesRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.FramesResponse]:
        queue: asyncio.Queue[pb.FramesResponse | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(requests, queue))
        self._streams.add(queue)
        try:
            while (message := await queue.get()) is not None:
                yield message
            if self.opens and self.opens[-1].replica_id != self.replica_id:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "wrong_replica")
        finally:
            self._streams.discard(queue)
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[pb.FramesRequest], queue: asyncio.Queue[pb.FramesResponse | None]
    ) -> None:
        async for request in requests:
            if request.WhichOneof("message") == "open":
                self.opens.append(request.open)
                if request.open.replica_id != self.replica_id:
                    break
                opened = pb.Opened(
                    replica_id=self.replica_id,
                    revision=self.revision,
                    schema_version=request.open.schema_version,
                )
                queue.put_nowait(pb.FramesResponse(opened=opened))
                continue
            self.frames.append(request.frame)
            async with self._arrived:
                self._arrived.notify_all()
            asyncio.create_task(self._answer(request.frame, queue))  # noqa: RUF006
        queue.put_nowait(None)

    async def _answer(self, frame: pb.RequestFrame, queue: asyncio.Queue[pb.FramesResponse | None]) -> None:
        await self.answers.wait()
        answer = pb.AnswerFrame(sequence=frame.sequence)
        block = pb.PackedBlock(block=predictions.Block(rows=len(frame.requests)).SerializeToString())
        for index, body in enumerate(frame.requests):
            request = oip.ModelInferRequest.FromString(body)
            outcome = await self.behave(request, self) if self.behave else Outcome()
            answer.codes.append(outcome.code)
            if outcome.code:
                answer.errors.add(call=index, reason=outcome.reason, message=outcome.message)
                answer.responses.append(b"")
                continue
            response = oip.ModelInferResponse(
                model_name=request.model_name, model_version=self.revision, id=request.id
            )
            response.parameters["replica"].string_param = self.replica_id
            answer.responses.append(response.SerializeToString())
            block.calls.append(index)
            block.row_offsets.append(0)
            block.rows.append(1)
        if not any(answer.codes):
            del answer.codes[:]
        answer.blocks.append(block)
        queue.put_nowait(pb.FramesResponse(frame=answer))


async def until(condition: Callable[[], object]) -> None:
    """Returns when it holds; fails after 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - whatever changes it has no event to wait for
            await asyncio.sleep(0.005)


@dataclass
class Log:
    """Keeps records."""

    entries: list[Entry] = field(default_factory=list)

    def record(self, entry: Entry) -> None:
        self.entries.append(entry)


def route(
    *revisions: tuple[str, list[FakeModelServer]],
    version: int = 1,
    candidate: str = "",
    share: int = 0,
    **changes: object,
) -> RouteRecord:
    """A record whose first revision is the stable one."""
    arms = {"control": revisions[0][0]} | ({"candidate": candidate} if candidate else {})
    allocations = (BucketRange(start=0, end=share, arm="candidate"),) if share else ()
    record = RouteRecord(
        version=version,
        endpoint="flights-prod",
        aliases=("flights",),
        endpoint_schema=EndpointSchema(columns=(Column(name="a"), Column(name="b", required=False))),
        hash_field="tail_number",
        salt="s1",
        allocations=allocations,
        arms=arms,
        revisions=tuple(
            RouteRevision(
                id=name,
                model_id="flights",
                model_version=f"{name.rsplit('.', 1)[-1]}.0.0",
                replicas=tuple(each.replica() for each in servers),
                model_schema=MODEL_SCHEMA,
            )
            for name, servers in revisions
        ),
    )
    return record.model_copy(update=changes)


def call(
    request_id: str = "",
    *,
    name: str = "flights-prod",
    version: str = "",
    unit: str | None = None,
    timeout_s: float = 5.0,
    override: str = "",
) -> Call:
    """A call as a door hands it over; the unit comes as a request parameter."""
    message = oip.ModelInferRequest(model_name=name, model_version=version, id=request_id)
    return Call(
        name,
        version,
        request_id,
        message.SerializeToString(),
        lambda key: None,
        asyncio.get_running_loop().time() + timeout_s,
        override_revision=override,
        parameter=lambda field: unit if field == "tail_number" else None,
    )
