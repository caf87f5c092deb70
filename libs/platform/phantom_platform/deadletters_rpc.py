"""The door to the dead letters of every service that runs in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import grpc

from phantom.platform.v1 import dead_letter_service_pb2 as pb
from phantom.platform.v1 import dead_letter_service_pb2_grpc as pb_grpc
from phantom_platform.deadletters import DeadLetter, DeadLetters
from phantom_platform.errors import NotFound
from phantom_platform.rpc.audit import DatabaseAuditSink
from phantom_platform.rpc.servicer import Servicer, servicer

SERVICE_NAME = "phantom.platform.v1.DeadLetterService"
DEFAULT_PAGE = 100

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def dead_letter_servicer(services: Sequence[DeadLetters]) -> Servicer:
    """One servicer for every service of a process; refusals are audited through the first one's outbox."""
    return servicer(
        pb_grpc.add_DeadLetterServiceServicer_to_server,
        DeadLetterRpc(services),
        SERVICE_NAME,
        audit=DatabaseAuditSink(services[0].database),
    )


class DeadLetterRpc(pb_grpc.DeadLetterServiceServicer):
    """Finds the service that a request names, by its router's name."""

    def __init__(self, services: Iterable[DeadLetters]) -> None:
        self._services: dict[str, DeadLetters] = {}
        for each in services:
            if each.service in self._services:
                raise ValueError(f"dead letters of {each.service} are served twice")
            self._services[each.service] = each

    async def ListDeadLetters(  # noqa: N802
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        size = request.page_size or DEFAULT_PAGE
        found = await self._of(request.service).list(
            state=request.state, limit=size, before=request.page_token
        )
        return pb.ListDeadLettersResponse(
            dead_letters=[_message(request.service, each) for each in found],
            next_page_token=found[-1].id if len(found) == size else "",
        )

    async def GetDeadLetter(  # noqa: N802
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        found = await self._of(request.service).show(request.id)
        return pb.GetDeadLetterResponse(dead_letter=_message(request.service, found, is_whole=True))

    async def ReplayDeadLetter(  # noqa: N802
        self, request: pb.ReplayDeadLetterRequest, context: Context
    ) -> pb.ReplayDeadLetterResponse:
        outcome = await self._of(request.service).replay(request.id)
        return pb.ReplayDeadLetterResponse(outcome=outcome)

    def _of(self, service: str) -> DeadLetters:
        found = self._services.get(service)
        if found is None:
            known = ", ".join(sorted(self._services)) or "none"
            raise NotFound(
                f"no service {service!r} with consumers runs here; known: {known}",
                code="service_not_found",
                service=service,
            )
        return found


def _message(service: str, letter: DeadLetter, *, is_whole: bool = False) -> pb.DeadLetter:
    """Lists leave out the bytes."""
    record = letter.record
    message = pb.DeadLetter(
        id=letter.id,
        service=service,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=(record.key or b"").decode(errors="replace"),
        event_type=letter.event_type,
        event_id=letter.event_id,
        event_source=letter.source,
        reason=letter.reason,
        state=letter.state,
    )
    message.died_at.FromDatetime(letter.died_at)
    if is_whole:
        message.value = record.value or b""
        for name, value in record.headers:
            message.headers[name] = value.decode(errors="replace")
    return message
