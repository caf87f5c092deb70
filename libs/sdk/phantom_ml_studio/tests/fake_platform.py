"""A platform that answers what a test says, over real gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


@dataclass
class Refusal(Exception):
    """What a method answers instead of a message."""

    status: grpc.StatusCode
    message: str = "refused"
    code: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)

    def status_proto(self) -> status_pb2.Status:
        """As our servers send it."""
        found = status_pb2.Status(code=self.status.value[0], message=self.message)
        if self.code:
            info = error_details_pb2.ErrorInfo(reason=self.code, domain="phantom", metadata=self.fields)
            found.details.append(_packed(info))
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for name, text in self.violations.items():
                bad.field_violations.add(field=name, description=text)
            found.details.append(_packed(bad))
        return found


def _packed(message: Any) -> AnyMessage:
    wrapped = AnyMessage()
    wrapped.Pack(message)
    return wrapped


class FakePlatform(grpc.GenericRpcHandler):
    """Methods by their last name: given the request's bytes, they return a message or raise a Refusal."""

    def __init__(self) -> None:
        self.address = ""
        self.methods: dict[str, Callable[[bytes], Any]] = {}
        # Client streams: given every part's bytes.
        self.streams: dict[str, Callable[[list[bytes]], Any]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []

    def answer(self, method: str, *answers: Any) -> None:
        """These answers in turn, the last one for ever; an exception is raised."""
        left = list(answers)

        def next_one(_: bytes) -> Any:
            found = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(found, Exception):
                raise found
            return found

        self.methods[method] = next_one

    def service(self, details: Any) -> Any:
        """Any service's method of that name."""
        name = details.method.rsplit("/", 1)[-1]
        if name in self.streams:
            answer = self.streams[name]
            return grpc.stream_unary_rpc_method_handler(
                lambda parts, context: answer(list(parts)).SerializeToString()
            )
        if name not in self.methods:
            return None
        metadata = {key: str(value) for key, value in details.invocation_metadata}

        def unary(body: bytes, context: Any) -> bytes:
            self.seen.append((name, metadata))
            try:
                return self.methods[name](body).SerializeToString()
            except Refusal as refusal:
                context.abort_with_status(rpc_status.to_status(refusal.status_proto()))
                raise

        return grpc.unary_unary_rpc_method_handler(unary)


@contextmanager
def running() -> Iterator[FakePlatform]:
    """Listens until the block ends."""
    platform = FakePlatform()
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((platform,))
    platform.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield platform
    finally:
        server.stop(None).wait()
