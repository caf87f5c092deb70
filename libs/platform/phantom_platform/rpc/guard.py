"""What every call passes through, unary or streaming, before and after its handler.

    trace → metrics → deadline → errors → identity and permission → parsing and validation → audit → handler

One class and one path for the four kinds of RPC: a streaming answer is written from the same coroutine that
guards it, so that a cancellation always arrives here and nothing is left to the garbage collector.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message
from opentelemetry import trace

from phantom_platform import audit, ids
from phantom_platform.audit import AuditContext
from phantom_platform.errors import DeadlineExceeded, Exhausted, PhantomError, Unavailable
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.rpc import call as calls
from phantom_platform.rpc.call import Call
from phantom_platform.rpc.context import set_caller
from phantom_platform.rpc.metrics import RpcMetrics
from phantom_platform.rpc.servicer import Method, Servicer, ServicerError
from phantom_platform.rpc.status import DETAILS_KEY, code_of, to_status
from phantom_platform.rpc.validation import parse, validate
from phantom_platform.telemetry import logs, tracing

log = logs.get(__name__)

MAX_AUDITS_IN_FLIGHT = 64
"""Refusals being written at once. A flood of calls without a token must not become a flood of transactions."""

AUDIT_TIMEOUT_S = 2.0
"""While Postgres is away, a refusal is answered after this time, and its lost record counted."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Guard:
    """Wraps the handlers of a server. `max_unary_s` bounds unary calls; streams last as long as clients let them."""

    def __init__(self, verifier: TokenVerifier | None, metrics: RpcMetrics, max_unary_s: float) -> None:
        self._verifier = verifier
        self._metrics = metrics
        self._max_unary_s = max_unary_s
        self._audits = 0

    def wrap(self, method: Method, servicer: Servicer, handler: Handler) -> Handler:
        """The same RPC over raw request bytes, guarded."""
        behaviour = _behaviour(method, handler)

        if handler.response_streaming:

            async def stream(request: Any, context: Any) -> None:
                call = Call(method, servicer, context)

                async def run() -> None:
                    async with aclosing(behaviour(self._request(call, request), context)) as answers:
                        async for answer in answers:
                            await context.write(answer)

                await self._guarded(call, run, None)

            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)
            return grpc.unary_stream_rpc_method_handler(stream, None, handler.response_serializer)

        async def single(request: Any, context: Any) -> Any:
            call = Call(method, servicer, context)

            async def run() -> Any:
                return await behaviour(self._request(call, request), context)

            limit_s = None if handler.request_streaming else call.budget_s(self._max_unary_s)
            return await self._guarded(call, run, limit_s)

        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(single, None, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(single, None, handler.response_serializer)

    async def _guarded(self, call: Call, run: Callable[[], Awaitable[Any]], limit_s: float | None) -> Any:
        with self._observed(call) as span:
            try:
                async with asyncio.timeout(limit_s) as limit:
                    await self._admit(call)
                    answer = await run()
                self._check_audited(call)
                return answer
            except asyncio.CancelledError:
                call.code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                call.code = call.context.code() or grpc.StatusCode.UNKNOWN
                raise
            except Exception as raised:
                is_late = isinstance(raised, TimeoutError) and limit.expired()
                error = _late(limit_s) if is_late else _ours(raised, call)
                call.code = code_of(error)
                tracing.mark_failed(span, error.code)
                await self._audit_refusal(call, error)
                return await _abort(call, error)

    @contextmanager
    def _observed(self, call: Call) -> Iterator[trace.Span]:
        labels = {"service": call.method.service, "method": call.method.name}
        self._metrics.started.labels(**labels).inc()
        begun = time.perf_counter()
        parent = tracing.extract(call.text(tracing.TRACEPARENT))
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": call.method.service,
            "rpc.method": call.method.name,
        }
        kind = trace.SpanKind.SERVER
        with (
            self._metrics.in_flight.track_inprogress(),
            tracing.span(call.method.path[1:], parent=parent, kind=kind, attributes=attributes) as span,
        ):
            try:
                yield span
            finally:
                span.set_attribute("rpc.grpc.status_code", call.code.value[0])
                self._metrics.handled.labels(**labels, code=call.code.name).inc()
                self._metrics.seconds.labels(**labels, code=call.code.name).observe(
                    time.perf_counter() - begun
                )

    async def _admit(self, call: Call) -> None:
        """Who calls, and may they: sets the caller and, for a mutating method, the audit context."""
        if not call.method.is_public:
            caller = await calls.identify(call, self._verifier)
            caller.require(call.method.permission)
        set_caller(call.caller)
        audit.audit_context.set(_audit_context(call) if call.method.mutates else None)

    def _request(self, call: Call, raw: Any) -> Any:
        """The checked request, or an iterator that checks each message as it comes."""
        if isinstance(raw, bytes):
            return _checked(call, raw)
        return _checked_stream(call, raw)

    def _check_audited(self, call: Call) -> None:
        context = audit.audit_context.get()
        if context is None:
            return
        labels = {"service": call.method.service, "method": call.method.name}
        self._metrics.mutated.labels(**labels).inc()
        if not context.recorded:
            self._metrics.unaudited.labels(**labels).inc()
            log.debug("mutating call left no audit record", action="rpc_unaudited", method=call.method.path)

    async def _audit_refusal(self, call: Call, error: PhantomError) -> None:
        is_forbidden = call.code is grpc.StatusCode.PERMISSION_DENIED
        if call.servicer.audit is None or not (call.method.mutates or is_forbidden):
            return
        if isinstance(error, Unavailable | DeadlineExceeded):
            return  # nobody refused it, and the sink needs the same Postgres
        context = audit.audit_context.get() or _audit_context(call)
        self._audits += 1
        try:
            if self._audits > MAX_AUDITS_IN_FLIGHT:
                raise Exhausted("too many refusals at once", code="too_many_refusals")
            async with asyncio.timeout(AUDIT_TIMEOUT_S):
                await call.servicer.audit.refused(context, error.code)
        except Exception as failure:
            self._metrics.audits_lost.labels(service=call.method.service, method=call.method.name).inc()
            log.error(
                "a refusal was not audited",
                action="audit_lost",
                method=call.method.path,
                principal=call.principal,
                error_code=error.code,
                exc_info=failure,
            )
        finally:
            self._audits -= 1


def _behaviour(method: Method, handler: Handler) -> Callable[[Any, Any], Any]:
    """The handler's function, which must be of the kind that can be guarded."""
    behaviour: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    is_right = inspect.isasyncgenfunction if handler.response_streaming else inspect.iscoroutinefunction
    if not is_right(behaviour):
        kind = "an async generator" if handler.response_streaming else "a coroutine function"
        raise ServicerError(f"{method.service}.{method.name} must be implemented as {kind}")
    return behaviour  # type: ignore[no-any-return]


def _checked(call: Call, raw: bytes) -> Message:
    message = parse(call.method.request, raw)
    call.request_id = getattr(message, "request_id", "") or call.request_id
    if (context := audit.audit_context.get()) is not None:
        context.request_id = call.request_id
    validate(message)
    return message


async def _checked_stream(call: Call, raw: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for each in raw:
        yield _checked(call, each)


def _audit_context(call: Call) -> AuditContext:
    span = trace.get_current_span().get_span_context()
    return AuditContext(
        principal=call.principal,
        workspace=call.workspace,
        action=call.method.path,
        request_id=call.request_id,
        trace_id=format(span.trace_id, "032x") if span.is_valid else "",
    )


def _late(limit_s: float | None) -> DeadlineExceeded:
    return DeadlineExceeded(f"not finished within {limit_s or 0:.3g} s", code="deadline_exceeded")


def _ours(raised: Exception, call: Call) -> PhantomError:
    """The error to answer with. What we did not foresee gets an incident number and tells nothing else."""
    if isinstance(raised, PhantomError) and type(raised) is not PhantomError:
        return raised
    incident = ids.new_id()
    log.error("rpc failed", action="rpc_failed", method=call.method.path, incident=incident, exc_info=raised)
    return PhantomError(
        f"internal error; the service's log has the details under incident {incident}",
        code="internal",
        incident=incident,
    )


async def _abort(call: Call, error: PhantomError) -> NoReturn:
    status = to_status(error)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await call.context.abort(code_of(error), status.message, details)
    raise AssertionError("abort returned")  # it never does; its type does not say so
