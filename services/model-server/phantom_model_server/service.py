"""The use case: answer a frame of calls with as few runs of the model as their layouts allow, usually one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from google.protobuf.message import DecodeError

from inference import grpc_service_pb2 as oip
from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_contracts.schema import EndpointSchema, ModelSchema, endpoint_schema
from phantom_model_server import failures
from phantom_model_server.answers import Answers
from phantom_model_server.blocks import Packed, Packer
from phantom_model_server.decoding import Decoder, Rows
from phantom_model_server.projection import Numbers, Projection
from phantom_platform.errors import Invalid, PhantomError
from phantom_platform.telemetry import logs
from phantom_runtimes import Model, Predictions

log = logs.get(__name__)


class Observer(Protocol):
    """Who wants to know what was answered."""

    def answered(self, frame: Answered, seconds: float) -> None: ...


@dataclass(slots=True)
class Asked:
    """One call of a frame."""

    body: bytes  # a serialized ModelInferRequest
    deadline: float  # on the monotonic clock


@dataclass(slots=True)
class Answered:
    """A frame's answers, in the order of its calls."""

    replies: list[bytes]  # empty where the call failed
    errors: dict[int, PhantomError] = field(default_factory=dict)
    blocks: list[pb.PackedBlock] = field(default_factory=list)
    rows: int = 0
    runs: int = 0  # how often the model was run
    missing: int = 0
    unknown: int = 0


@dataclass(slots=True)
class _Call:
    index: int
    request: oip.ModelInferRequest
    rows: Rows
    wanted: tuple[str, ...]


class Endpoint:
    """What is needed to answer for one endpoint: its schema seen by this model."""

    def __init__(self, schema: EndpointSchema, model: Model) -> None:
        self.projection = Projection(schema, model.schema)
        self.decoder = Decoder(self.projection)
        self.packer = Packer(self.projection, model.runtime)


class ModelServer:
    """Answers calls with one model. Thread-safe once made."""

    def __init__(self, model: Model, model_version: str, observer: Observer) -> None:
        self.model = model
        self._answers = Answers(model.schema, model_version)
        self._observer = observer
        self.own = self.endpoint(endpoint_schema([model.schema]))

    @property
    def schema(self) -> ModelSchema:
        return self.model.schema

    def endpoint(self, schema: EndpointSchema) -> Endpoint:
        """For the frames of an endpoint. Invalid `schema_conflict` where a column is text on one side only."""
        return Endpoint(schema, self.model)

    def answer(self, endpoint: Endpoint, calls: Sequence[Asked], now: float) -> Answered:
        """Answers for all calls. One that fails never fails its neighbours. `now` is on the monotonic clock."""
        started = time.perf_counter()
        answered = Answered([b""] * len(calls))
        groups: dict[np.dtype[np.float32] | np.dtype[np.float64], list[_Call]] = {}
        for index, call in enumerate(calls):
            try:
                if call.deadline <= now:
                    raise failures.too_late()
                decoded = self._decode(endpoint, index, call.body)
            except PhantomError as error:
                answered.errors[index] = error
                continue
            except Exception as error:  # a mistake of ours must not take the neighbours down
                log.error("decoding failed", action="decoding_failed", exc_info=error)
                answered.errors[index] = PhantomError("the request could not be decoded", code="internal")
                continue
            groups.setdefault(decoded.rows.numbers.dtype, []).append(decoded)
        for group in groups.values():
            self._answer_group(endpoint, group, answered)
        self._observer.answered(answered, time.perf_counter() - started)
        return answered

    def _decode(self, endpoint: Endpoint, index: int, body: bytes) -> _Call:
        try:
            request = oip.ModelInferRequest.FromString(body)
        except DecodeError as error:
            raise Invalid(
                "the request is no ModelInferRequest: it is cut off, or a text in it is no UTF-8",
                code="unparsable_request",
            ) from error
        return _Call(index, request, endpoint.decoder.decode(request), self._answers.wanted(request))

    def _answer_group(self, endpoint: Endpoint, group: list[_Call], answered: Answered) -> None:
        numbers, matrix = _matrix(endpoint, group)
        try:
            endpoint.projection.check(matrix)
        except Invalid as error:
            if len(group) == 1:
                answered.errors[group[0].index] = error
                return
            group = self._sound(endpoint, group, answered)
            if not group:
                return
            numbers, matrix = _matrix(endpoint, group)
        try:
            answered.runs += 1
            found = self.model.predict(matrix)
        except (
            Exception
        ) as error:  # whatever the model's library raises is this call's failure, not the server's
            if len(group) == 1:
                answered.errors[group[0].index] = failures.model_failed(error)
                return
            for call in group:  # find out whose values it was
                self._answer_group(endpoint, [call], answered)
            return
        self._reply(endpoint, group, numbers, found, answered)

    def _sound(self, endpoint: Endpoint, group: list[_Call], answered: Answered) -> list[_Call]:
        """The calls of a group whose values may be handed to the model."""
        sound = []
        for call in group:
            try:
                endpoint.projection.check(_matrix(endpoint, [call])[1])
                sound.append(call)
            except Invalid as error:
                answered.errors[call.index] = error
        return sound

    def _reply(
        self, endpoint: Endpoint, group: list[_Call], numbers: Numbers, found: Predictions, answered: Answered
    ) -> None:
        at = 0
        for call in group:
            rows = slice(at, at + call.rows.count)
            answered.replies[call.index] = self._answers.reply(
                call.request, found, rows, call.wanted, is_raw=call.rows.is_raw
            )
            at = rows.stop
            answered.missing += call.rows.missing
            answered.unknown += call.rows.unknown
        answered.rows += at
        packed = [Packed(call.index, call.rows) for call in group]
        answered.blocks += endpoint.packer.pack(packed, numbers, found)


def _matrix(endpoint: Endpoint, group: list[_Call]) -> tuple[Numbers, Numbers]:
    """The endpoint's numbers and the model's features, of all rows of the group."""
    if len(group) == 1:
        only = group[0].rows
        return only.numbers, endpoint.projection.matrix(only.numbers, only.codes)
    numbers: Numbers = np.concatenate([call.rows.numbers for call in group])
    codes = None
    if endpoint.projection.text_features:
        codes = np.concatenate([call.rows.codes for call in group if call.rows.codes is not None])
    return numbers, endpoint.projection.matrix(numbers, codes)
