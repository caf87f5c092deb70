"""One frame stream from one gateway for one endpoint: the door of the fast path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import grpc
from pydantic import ValidationError

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_contracts.launch import LaunchFile
from phantom_contracts.schema import EndpointSchema
from phantom_model_server import failures, frame_codec
from phantom_model_server.draining import Gate
from phantom_model_server.service import Answered, Asked, Endpoint, ModelServer
from phantom_platform.errors import Invalid, Refused
from phantom_platform.telemetry import logs

log = logs.get(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass(frozen=True)
class Work:
    """Where frames are answered."""

    server: ModelServer
    launch: LaunchFile
    gate: Gate
    pool: Executor
    inline_bytes: int
    # (name, traceparent or empty) → a context; spans only where traces are exported
    span: Callable[[str, str], AbstractContextManager[object]] = lambda name, parent: nullcontext()


class Stream:
    """Runs until the gateway closes it."""

    def __init__(self, work: Work, context: Context) -> None:
        self._work = work
        self._context = context
        self._endpoint: Endpoint | None = None
        self._name = ("", "")
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Raises PhantomError where the stream cannot go on."""
        try:
            while (raw := await read(self._context)) is not None:
                await self._receive(frame_codec.read_message(raw))
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._work.gate.ended(id(self))

    async def _receive(self, message: pb.FramesRequest) -> None:
        kind = message.WhichOneof("message")
        if kind == "frame" and self._endpoint is not None:
            await self._take(message.frame, self._endpoint)
        elif kind == "open":
            await self._open(message.open)
        else:
            raise Invalid("the first message of a frame stream is `open`", code="not_opened")

    async def _open(self, opening: pb.Open) -> None:
        launch = self._work.launch
        if (opening.replica_id, opening.revision) != (launch.replica_id, launch.revision):
            raise Refused(
                f"this is replica {launch.replica_id} of {launch.revision}, not {opening.replica_id[:80]} of "
                f"{opening.revision[:80]}",
                code="wrong_replica",
                replica_id=launch.replica_id,
                revision=launch.revision,
            )
        name = (opening.workspace, opening.endpoint)
        is_first = self._endpoint is None
        if not is_first and name != self._name:
            raise Invalid(
                f"the stream is for {'/'.join(self._name)}; open another one for {'/'.join(name)[:200]}",
                code="wrong_endpoint",
            )
        self._name = name
        self._endpoint = self._work.server.endpoint(_schema(opening.endpoint_schema))
        opened = pb.Opened(
            replica_id=launch.replica_id, revision=launch.revision, schema_version=opening.schema_version
        )
        await self._write(pb.FramesResponse(opened=opened).SerializeToString())
        if is_first:
            self._work.gate.opened(id(self), self._say_draining)

    async def _take(self, frame: pb.RequestFrame, endpoint: Endpoint) -> None:
        received = time.monotonic()
        calls = frame_codec.read_calls(frame, received)
        gate = self._work.gate
        if gate.is_draining:
            refused = Answered([b""] * len(calls), {n: failures.draining() for n in range(len(calls))})
            await self._answer(frame.sequence, refused)
            return
        gate.begin(len(calls))
        if sum(len(call.body) for call in calls) <= self._work.inline_bytes:
            try:
                with self._work.span("Frame", ""):
                    answered = self._work.server.answer(endpoint, calls, received)
                await self._answer(frame.sequence, answered)
            finally:
                gate.end(len(calls))
            return
        task = asyncio.ensure_future(self._take_large(frame.sequence, endpoint, calls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_large(self, sequence: int, endpoint: Endpoint, calls: list[Asked]) -> None:
        try:
            with self._work.span("Frame", ""):
                answered = await asyncio.get_running_loop().run_in_executor(
                    self._work.pool, lambda: self._work.server.answer(endpoint, calls, time.monotonic())
                )
            await self._answer(sequence, answered)
        except Exception as error:  # the stream is gone: its gateway knows, and asks another replica
            log.warning("answer not delivered", action="answer_not_delivered", error=str(error))
        finally:
            self._work.gate.end(len(calls))

    async def _answer(self, sequence: int, answered: Answered) -> None:
        await self._write(frame_codec.write_answer(sequence, answered))

    async def _say_draining(self, route_record: bytes) -> None:
        try:
            draining = pb.FramesResponse(draining=pb.Draining(route_record=route_record))
            await self._write(draining.SerializeToString())
        except Exception as error:  # the stream ended in the meantime
            log.info("draining not delivered", action="draining_not_delivered", error=str(error))

    async def _write(self, message: bytes) -> None:
        async with self._writing:  # a context takes one write at a time
            await self._context.write(message)


async def read(context: Context) -> bytes | None:
    """The client's next message; None where it has closed its side."""
    message: Any = await context.read()
    return None if message is grpc.aio.EOF else message


def _schema(raw: bytes) -> EndpointSchema:
    try:
        return EndpointSchema.model_validate_json(raw)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'schema'}: {e['msg']}" for e in error.errors()[:3]
        )
        raise Invalid(f"the endpoint's schema is not valid: {wrong}", code="invalid_schema") from error
