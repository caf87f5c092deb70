"""Plain OIP: what a client that speaks to one replica directly may ask, whichever door it comes through."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from google.protobuf.message import DecodeError, Message

from inference import grpc_service_pb2 as oip
from phantom_contracts.tensors import endpoint_inputs, model_outputs
from phantom_model_server import failures
from phantom_model_server.frames import Context, Work, read
from phantom_model_server.service import Asked
from phantom_model_server.tensors import shown
from phantom_platform.errors import Invalid, NotFound, PhantomError

DEFAULT_DEADLINE_S = 30.0


class Inference:
    """Plain OIP, for clients that speak to one replica directly. The model goes by its id or its deployment's."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._names = (work.launch.model_id, work.launch.deployment_id)

    async def server_live(self, raw: bytes, context: Context) -> bytes:
        return oip.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, raw: bytes, context: Context) -> bytes:
        return oip.ServerReadyResponse(ready=not self._work.gate.is_draining).SerializeToString()

    async def model_ready(self, raw: bytes, context: Context) -> bytes:
        request = parse(oip.ModelReadyRequest, raw)
        return oip.ModelReadyResponse(ready=self.is_ready(request.name, request.version)).SerializeToString()

    async def server_metadata(self, raw: bytes, context: Context) -> bytes:
        return oip.ServerMetadataResponse(name="phantom-model-server", version="0.1.0").SerializeToString()

    async def model_metadata(self, raw: bytes, context: Context) -> bytes:
        request = parse(oip.ModelMetadataRequest, raw)
        return self.describe(request.name, request.version).SerializeToString()

    def is_ready(self, name: str, version: str) -> bool:
        is_here = name in self._names and version in ("", self._work.launch.model_version)
        return is_here and not self._work.gate.is_draining

    def describe(self, name: str, version: str) -> oip.ModelMetadataResponse:
        """The model's metadata; NotFound where it is not served here."""
        self.check_name(name, version)
        server = self._work.server
        reply = oip.ModelMetadataResponse(
            name=name, versions=[self._work.launch.model_version], platform=server.model.runtime
        )
        for tensor in endpoint_inputs(server.own.projection.endpoint):
            reply.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for tensor in model_outputs(server.schema):
            reply.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return reply

    async def infer(self, raw: bytes, context: Context) -> bytes:
        left_s = context.time_remaining()
        request = parse(oip.ModelInferRequest, raw)
        self.check_name(request.model_name, request.model_version)
        parent = dict(context.invocation_metadata() or ()).get("traceparent", "")
        with self._work.span("ModelInfer", str(parent)):
            return await self.answer(
                raw, time.monotonic() + (DEFAULT_DEADLINE_S if left_s is None else left_s)
            )

    async def stream(self, context: Context) -> None:
        """Triton's form: an error is a message of the stream and does not end it."""
        while (raw := await read(context)) is not None:
            reply = oip.ModelStreamInferResponse()
            try:
                request = parse(oip.ModelInferRequest, raw)
                self.check_name(request.model_name, request.model_version)
                answer = await self.answer(raw, time.monotonic() + DEFAULT_DEADLINE_S)
                reply.infer_response.MergeFromString(answer)
            except PhantomError as error:
                reply.error_message = error.message
            await context.write(reply.SerializeToString())

    async def answer(self, raw: bytes, deadline: float) -> bytes:
        """A serialized ModelInferResponse to a serialized ModelInferRequest; `deadline` is on the monotonic clock."""
        work = self._work
        if work.gate.is_draining:
            raise failures.draining()
        work.gate.begin(1)
        try:
            calls = [Asked(raw, deadline)]
            if len(raw) <= work.inline_bytes:
                answered = work.server.answer(work.server.own, calls, time.monotonic())
            else:
                answered = await asyncio.get_running_loop().run_in_executor(
                    work.pool, lambda: work.server.answer(work.server.own, calls, time.monotonic())
                )
        finally:
            work.gate.end(1)
        if answered.errors:
            raise answered.errors[0]
        return answered.replies[0]

    def check_name(self, name: str, version: str) -> None:
        launch = self._work.launch
        if name not in self._names:
            raise NotFound(
                f"the model {shown(name)} is not served here; {launch.model_id!r} is", code="model_not_found"
            )
        if version not in ("", launch.model_version):
            raise NotFound(
                f"version {shown(version)} is not served here; {launch.model_version!r} is",
                code="version_not_found",
            )


def parse(kind: Any, raw: Any) -> Any:
    """The message; Invalid `unparsable_request` where the bytes are none."""
    try:
        message: Message = kind.FromString(raw)
    except DecodeError as error:
        raise Invalid(
            f"the request is no {kind.DESCRIPTOR.name}: it is cut off, or a text in it is no UTF-8",
            code="unparsable_request",
        ) from error
    return message
