"""Calling the control services: channels that carry a token and the trace, and errors that come back as ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom_platform.clock import Clock
from phantom_platform.errors import PhantomError, Refused
from phantom_platform.rpc.server import message_options
from phantom_platform.rpc.status import DETAILS_KEY, from_status
from phantom_platform.telemetry import logs, tracing

log = logs.get(__name__)

RENEW_AT = 2 / 3
"""Of a token's life: early enough to survive 20 minutes without governance."""

ISSUE_TIMEOUT_S = 10.0


_RECONNECT = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2000)]
"""By default a channel tries again only every two minutes once a server was away for a while."""


class Tokens(Protocol):
    """Where a channel gets its bearer token."""

    async def token(self) -> str: ...


class TokenSource:
    """A service's own token, got with its key file from governance and renewed before it expires."""

    def __init__(self, address: str, service: str, key_file: Path, clock: Clock) -> None:
        self._address = address
        self._service = service
        self._key_file = key_file
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._renew_at = 0.0
        self._expires_at = 0.0

    async def token(self) -> str:
        """A token that is valid now. Raises governance's error, or `Refused` where the key file is missing."""
        if self._clock.now().timestamp() < self._renew_at:
            return self._token
        async with self._lock:
            now = self._clock.now().timestamp()
            if now < self._renew_at:
                return self._token
            try:
                await self._renew(now)
            except PhantomError as error:
                if now >= self._expires_at:
                    raise
                self._renew_at = now + (self._expires_at - now) / 10
                log.warning("token not renewed yet", action="token_renewal_failed", error=str(error))
            return self._token

    async def _renew(self, now: float) -> None:
        request = pb.IssueServiceTokenRequest(service=self._service, key=self._key())
        with translated():
            async with control_channel(self._address, None) as channel:
                stub = stubs.GovernanceServiceStub(channel)
                answer = await stub.IssueServiceToken(request, timeout=ISSUE_TIMEOUT_S)
        self._token = answer.token.value
        self._expires_at = float(answer.token.expires_at.seconds)
        self._renew_at = now + (self._expires_at - now) * RENEW_AT

    def _key(self) -> str:
        try:
            return self._key_file.read_text("utf-8").strip()
        except OSError as error:
            raise Refused(
                f"the key file of service {self._service} cannot be read: {self._key_file}: {error.strerror}; "
                "governance writes it when it starts",
                code="service_key_missing",
                path=str(self._key_file),
            ) from error


def from_rpc_error(error: grpc.RpcError) -> PhantomError:
    """The error that the server meant, or the nearest of ours for one that never reached it."""
    call: Any = error
    details = None
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            details = value
    return from_status(call.code(), call.details() or "", details)


@contextmanager
def translated() -> Iterator[None]:
    """Around calls: gRPC's errors leave the block as ours, the original as their cause."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def control_channel(address: str, tokens: Tokens | None) -> grpc.aio.Channel:
    """A channel to a control server. Adds the bearer token (unless `tokens` is None) and the traceparent."""
    headers = _Headers(tokens)
    interceptors: list[Any] = [
        _UnaryUnary(headers),
        _UnaryStream(headers),
        _StreamUnary(headers),
        _StreamStream(headers),
    ]
    return grpc.aio.insecure_channel(
        address, options=[*message_options(), *_RECONNECT], interceptors=interceptors
    )


class _Headers:
    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    async def added_to(self, details: Any) -> Any:
        metadata: Any = grpc.aio.Metadata(*(details.metadata or ()))
        if self._tokens is not None and "authorization" not in metadata:
            metadata.add("authorization", f"Bearer {await self._tokens.token()}")
        traceparent = tracing.inject()
        if traceparent is not None and tracing.TRACEPARENT not in metadata:
            metadata.add(tracing.TRACEPARENT, traceparent)
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


# One class a kind of call: grpc.aio files an interceptor under the first kind it recognises only.
class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(await self._headers.added_to(details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(await self._headers.added_to(details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(await self._headers.added_to(details), requests)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, headers: _Headers) -> None:
        self._headers = headers

    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(await self._headers.added_to(details), requests)
