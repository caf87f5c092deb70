"""`Client`: one connection to the control API, which every other class of the SDK is given."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import grpc

from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.governance.v1 import governance_service_pb2_grpc as governance_grpc
from phantom_ml_studio import credentials, tracing
from phantom_ml_studio.errors import Invalid, PhantomError, Unauthenticated, Unavailable, from_rpc_error

T = TypeVar("T")
_OPTIONS = [
    ("grpc.max_receive_message_length", 72 << 20),
    ("grpc.max_send_message_length", 72 << 20),
    # By default a channel looks again after up to two minutes: longer than anybody waits for a restart.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_PAUSE_S = 0.2
_STREAM_S = 3600.0


class Client:
    """Who calls, and where. Address and token come from the login where they are not given.

    >>> client = Client()                                   # after `phantom-ml-studio auth login`
    >>> client = Client(address="127.0.0.1:50051", token=...)

    While nobody answers, calls are repeated for `retry_s` (`on_retry` is told each time): changes carry a request id,
    so a repeat is harmless. Raises Unauthenticated where no login is stored, or it has expired.
    """

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 60.0,
        retry_s: float = 10.0,
        on_retry: Callable[[PhantomError], None] = lambda error: None,
    ) -> None:
        if token is None:
            login = credentials.load()
            token, address = login.token, address or login.address
        elif not token:
            raise Unauthenticated("the token that was given is empty", code="token_missing")
        self.address = address or credentials.control_address()
        self.timeout_s, self.retry_s, self.on_retry = timeout_s, retry_s, on_retry
        self._authorization = ("authorization", f"Bearer {token}")
        self.channel = grpc.insecure_channel(self.address, options=_OPTIONS)

    @classmethod
    def login(cls, username: str, password: str, address: str | None = None) -> Client:
        """A client of that user, without storing anything. Raises Unauthenticated."""
        token = obtain_token(username, password, address or credentials.control_address())
        return cls(address or credentials.control_address(), token.value)

    def call(self, method: Callable[..., T], request: Any, *, timeout_s: float | None = None) -> T:
        """One RPC with our token, inside the current trace or a new one; raises the SDK's errors."""
        give_up = time.monotonic() + self.retry_s
        parent = tracing.traceparent() or tracing.new_traceparent()
        metadata = (self._authorization, (tracing.TRACEPARENT, parent))
        while True:
            try:
                return method(request, metadata=metadata, timeout=timeout_s or self.timeout_s)
            except grpc.RpcError as raw:
                error = from_rpc_error(raw, self.address)
                error.trace_id = tracing.trace_id_of(parent)
                if not isinstance(error, Unavailable) or time.monotonic() > give_up:
                    raise error from None
                self.on_retry(error)
                time.sleep(_PAUSE_S)

    def stream(self, method: Callable[..., Iterable[T]], request: Any) -> Iterator[T]:
        """A server-streaming RPC."""
        parent = tracing.traceparent() or tracing.new_traceparent()
        metadata = (self._authorization, (tracing.TRACEPARENT, parent))
        try:
            yield from method(request, metadata=metadata, timeout=_STREAM_S)
        except grpc.RpcError as raw:
            error = from_rpc_error(raw, self.address)
            error.trace_id = tracing.trace_id_of(parent)
            raise error from None

    def pages(self, method: Callable[..., Any], request: Any, field: str) -> Iterator[Any]:
        """Every item of a paged list."""
        while True:
            response = self.call(method, request)
            yield from getattr(response, field)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def obtain_token(username: str, password: str, address: str) -> governance.Token:
    """A token for a password. Raises Unauthenticated, Exhausted (too many attempts) or Unavailable."""
    if not username or not password:
        raise Invalid("a user name and a password are needed", code="empty_credentials")
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        stub = governance_grpc.GovernanceServiceStub(channel)
        try:
            return stub.Login(governance.LoginRequest(username=username, password=password), timeout=15).token
        except grpc.RpcError as raw:
            raise from_rpc_error(raw, address) from None


def new_request_id(given: str | None = None) -> str:
    """The caller's own id, or a new one: what makes a repeated mutation harmless."""
    return given or str(uuid.uuid4())
