"""The use case: answer a frame of calls with as few runs of the model as their layouts allow, usually one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from phantom_contracts.schema import EndpointSchema, ModelSchema, endpoint_schema
from phantom_model_server import failures
from phantom_model_server.answers import Answers, encode
from phantom_model_server.blocks import Packer
from phantom_model_server.decoding import Decoder, Rows
from phantom_model_server.projection import Numbers, Projection
from phantom_model_server.requests import Call, Reader
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
    blocks: list[bytes] = field(default_factory=list)  # serialized PackedBlocks
    rows: int = 0
    runs: int = 0  # how often the model was run
    missing: int = 0
    unknown: int = 0


class Endpoint:
    """What is needed to answer for one endpoint: its schema seen by this model."""

    def __init__(self, schema: EndpointSchema, model: Model, answers: Answers) -> None:
        self.projection = Projection(schema, model.schema)
        self.reader = Reader(Decoder(self.projection), answers.wanted)
        self.packer = Packer(self.projection)


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
        return Endpoint(schema, self.model, self._answers)

    def answer(self, endpoint: Endpoint, calls: Sequence[Asked], now: float) -> Answered:
        """Answers for all calls. One that fails never fails its neighbours. `now` is on the monotonic clock."""
        started = time.perf_counter()
        answered = Answered([b""] * len(calls))
        groups: dict[type, list[Call]] = {}
        for index, asked in enumerate(calls):
            try:
                if asked.deadline <= now:
                    raise failures.too_late()
                call = endpoint.reader.read(index, asked.body)
            except PhantomError as error:
                answered.errors[index] = error
                continue
            except Exception as error:  # a mistake of ours must not take the neighbours down
                log.error("decoding failed", action="decoding_failed", exc_info=error)
                answered.errors[index] = PhantomError("the request could not be decoded", code="internal")
                continue
            groups.setdefault(call.rows.kind, []).append(call)
        for group in groups.values():
            self._answer_group(endpoint, group, answered)
        self._observer.answered(answered, time.perf_counter() - started)
        return answered

    def _answer_group(self, endpoint: Endpoint, group: list[Call], answered: Answered) -> None:
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

    def _sound(self, endpoint: Endpoint, group: list[Call], answered: Answered) -> list[Call]:
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
        self, endpoint: Endpoint, group: list[Call], numbers: Numbers, found: Predictions, answered: Answered
    ) -> None:
        encoded = encode(found)
        for call, reply in zip(group, self._answers.replies(group, encoded), strict=True):
            answered.replies[call.index] = reply
            rows = call.rows
            answered.rows += rows.count
            answered.missing += rows.missing
            answered.unknown += rows.unknown
        runtime = found.runtime or self.model.runtime
        answered.blocks += endpoint.packer.pack(group, numbers, encoded, len(numbers), runtime)


def _matrix(endpoint: Endpoint, group: list[Call]) -> tuple[Numbers, Numbers]:
    """The endpoint's numbers and the model's features, of all rows of the group."""
    numbers = _numbers([call.rows for call in group])
    codes = None
    if endpoint.projection.text_features:
        codes = np.concatenate([call.rows.codes for call in group if call.rows.codes is not None])
    return numbers, endpoint.projection.matrix(numbers, codes)


def _numbers(rows: list[Rows]) -> Numbers:
    """The numbers of all of them, one after the other; they are of one kind."""
    if len(rows) == 1:
        return rows[0].numbers
    plain = [each.values for each in rows if isinstance(each.values, bytes)]
    if len(plain) < len(rows):
        joined: Numbers = np.concatenate([each.numbers for each in rows])
        return joined
    return np.frombuffer(b"".join(plain), dtype=rows[0].kind).reshape(-1, rows[0].columns)
