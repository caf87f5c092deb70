"""ModelStreamInfer: many requests in flight on one stream, each answered as soon as it is ready.

Two dialects share the path. Triton's (the default) wraps each answer as ModelStreamInferResponse, whose
`error_message` is a failed request's. With metadata `phantom-stream-dialect: oip` the answer is a bare
ModelInferResponse; a failed one has no outputs and says so in the parameters `phantom_status`, `phantom_reason` and
`phantom_error`. A failed request ends nothing but itself. Every answer is the only one to its request, so it carries
`triton_final_response: true`, and `triton_enable_empty_final_response` never needs a message of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from phantom_inference_gateway.calls import Answer, RouteMemo, id_text
from phantom_inference_gateway.domain.routing import shorten
from phantom_inference_gateway.rpc import Caller, InferenceDoor, abort, call_of, unexpected
from phantom_inference_gateway.wire import (
    Head,
    Scalar,
    encode_head,
    length_prefix,
)
from phantom_platform.errors import Invalid, PhantomError
from phantom_platform.rpc.status import code_of

DIALECT = "phantom-stream-dialect"
MAX_IN_FLIGHT = 256
"""Requests of one stream that may be under way; further ones are not read until one is answered."""

_ERROR_MESSAGE, _INFER_RESPONSE = 1, 2
_FINAL = "triton_final_response"
_ID = "phantom_prediction_id"
# The entry of a prediction id without its 36 characters, which come last.
_ID_ENTRY = encode_head(parameters={_ID: "0" * 36})[:-36]


class StreamDoor:
    """Serves the streams of one server."""

    def __init__(self, door: InferenceDoor, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._door = door
        self._max_in_flight = max_in_flight
        self._repeated = RouteMemo(_repeated)

    async def serve(self, requests: Any, context: Any) -> None:
        """The handler of ModelStreamInfer. It reads through `context`, which tells the end from an error."""
        caller = self._door.caller(context)
        dialect = caller.metadata.get(DIALECT, "triton")
        if dialect not in ("triton", "oip"):
            error = Invalid(
                f"{DIALECT} is {shorten(str(dialect))!r}; it is triton (the default) or oip",
                code="unknown_dialect",
            )
            await abort(context, error)
        stream = _Stream(
            self._door, context, caller, dialect == "triton", self._max_in_flight, self._repeated
        )
        await stream.run()


class _Stream:
    def __init__(
        self,
        door: InferenceDoor,
        context: Any,
        caller: Caller,
        is_triton: bool,
        max_in_flight: int,
        repeated: RouteMemo,
    ) -> None:
        self._door = door
        self._context = context
        self._caller = caller
        self._is_triton = is_triton
        self._repeated = repeated
        self._room = asyncio.Semaphore(max_in_flight)
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Until the client has said its last and everything is answered; a client that goes away cancels it all."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._room.acquire()
                body = await self._context.read()
                if body is grpc.aio.EOF:
                    return
                group.create_task(self._serve(body))

    async def _serve(self, body: bytes) -> None:
        try:
            message = await self._message(body)
            await self._context.write(message)
        finally:
            self._room.release()

    async def _message(self, body: bytes) -> bytes:
        head: Head | None = None
        try:
            head = self._door.head(body)
            remaining_s = self._context.time_remaining()
            call = call_of(head, body, self._caller, remaining_s, self._loop.time())
            answer = await self._door.gateway.infer(call)
        except PhantomError as error:
            return self._refusal(head, error)
        except Exception as error:
            return self._refusal(head, unexpected(error))
        if answer.status == 0:
            told = self._repeated.of(answer) + _ID_ENTRY + id_text(answer.prediction_id).encode()
            response = answer.body + told
            return _wrapped(response) if self._is_triton else response
        return self._failure(head, answer.status, answer.reason, answer.message, parameters_of(answer))

    def _refusal(self, head: Head | None, error: PhantomError) -> bytes:
        return self._failure(head, code_of(error).value[0], error.code, error.message, {})

    def _failure(
        self, head: Head | None, status: int, reason: str, message: str, parameters: dict[str, Scalar]
    ) -> bytes:
        message = message or reason or "the request failed"
        told: dict[str, Scalar] = {
            _FINAL: True,
            **parameters,
            "phantom_status": status,
            "phantom_reason": reason,
        }
        if not self._is_triton:
            told["phantom_error"] = message
        response = encode_head(
            model_name=shorten(head.model_name) if head else "",
            request_id=head.request_id if head else "",
            parameters=told,
        )
        if not self._is_triton:
            return response
        text = message.encode()
        return length_prefix(_ERROR_MESSAGE, len(text)) + text + _wrapped(response)


def parameters_of(answer: Answer) -> dict[str, Scalar]:
    """The headers of a unary answer as response parameters: the same names with `_`, the same texts."""
    parameters: dict[str, Scalar] = {name.replace("-", "_"): value for name, value in answer.headers()}
    parameters[_FINAL] = True
    return parameters


def _repeated(answer: Answer) -> bytes:
    """`parameters_of` an answer without its prediction id, encoded."""
    told = parameters_of(answer)
    del told[_ID]
    return encode_head(parameters=told)


def _wrapped(response: bytes) -> bytes:
    return length_prefix(_INFER_RESPONSE, len(response)) + response
