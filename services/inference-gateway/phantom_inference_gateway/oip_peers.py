"""Replicas of another make (Triton, MLServer, KServe), spoken to by plain OIP unary calls.

The peer serves one model under the revision's model id, whatever its versions are called: the request's name and
version are overwritten, and the answer's are set back. It is asked every second whether it is ready.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from phantom_contracts.events.deployer import RouteRevision
from phantom_inference_gateway.attempts import DEADLINE_EXCEEDED, UNAVAILABLE, Attempt
from phantom_inference_gateway.calls import Part
from phantom_inference_gateway.domain.admission import Gate
from phantom_inference_gateway.domain.ejection import Ejection
from phantom_inference_gateway.domain.retry import Ending, is_replica_failure
from phantom_inference_gateway.oip_blocks import UnpackableError, keep_declared, pack, parse_request
from phantom_inference_gateway.upstreams import Hooks, Peer, State, StreamRule
from phantom_inference_gateway.wire import encode_head
from phantom_platform.errors import Invalid
from phantom_platform.telemetry import logs

log = logs.get(__name__)

_SERVICE = "/inference.GRPCInferenceService"
_NO_VERSION = b"\x12\x00"  # model_version = "": the last value of a field counts
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A connection a peer: what one does to its own never holds up another.
    ("grpc.use_local_subchannel_pool", 1),
    # A peer whose host vanished without a word is noticed within about 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
)
ASK_EVERY_S = 1.0
ASK_TIMEOUT_S = 2.0


class OipPeer:
    """A `Target` of one endpoint and replica."""

    def __init__(self, peer: Peer, revision: RouteRevision, rule: StreamRule, hooks: Hooks) -> None:
        self.peer = peer
        self.replica_id = peer.replica_id
        self.outstanding = 0
        self.state = State.CONNECTING
        self.ejection = Ejection(rule.ejection)
        self.gate = Gate(rule.admission)
        self.tried = asyncio.Event()
        # A call is a frame of its own here.
        self.frames = self.frame_calls = 0
        self._revision = revision
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._channel = grpc.aio.insecure_channel(peer.address, options=CHANNEL_OPTIONS)
        self._infer: Any = self._channel.unary_unary(f"{_SERVICE}/ModelInfer")
        self._ready: Any = self._channel.unary_unary(f"{_SERVICE}/ServerReady")
        self._calls: dict[Attempt, asyncio.Task[None]] = {}
        self._retired = asyncio.Event()
        self._task = asyncio.create_task(self._watch(), name=f"peer {peer.endpoint} {peer.replica_id}")

    @property
    def is_busy(self) -> bool:
        return bool(self._calls)

    def is_open(self, now: float) -> bool:
        return self.state is State.OPEN and self.ejection.admits(now)

    def is_last_resort(self, now: float) -> bool:
        return self.state is State.OPEN and self.ejection.admits_in_need()

    def send(self, attempt: Attempt, now: float) -> None:
        self.outstanding += 1
        if self.state is not State.OPEN:
            attempt.end(Ending.UNSENT, UNAVAILABLE, "no_ready_replica")
            return
        self.ejection.sent(now)
        self.frames += 1
        self.frame_calls += 1
        self._calls[attempt] = asyncio.create_task(self._answer(attempt))

    def release(self, attempt: Attempt, now: float) -> None:
        self.outstanding -= 1
        call = self._calls.pop(attempt, None)
        if call is not None and not call.done():
            call.cancel()
            self.ejection.abandoned(now)

    def schema_changed(self) -> None:
        """Nothing to tell: the peer knows its own inputs only."""

    def retire(self) -> None:
        """Take no more; calls under way end as they would have."""
        self.state = State.RETIRED
        self._retired.set()

    async def closed(self) -> None:
        """Returns when a retired peer has answered everything."""
        await asyncio.wait([self._task])

    async def abort(self) -> None:
        """Close now, whatever is in flight."""
        self.retire()
        for attempt, call in list(self._calls.items()):
            attempt.end(Ending.LOST, UNAVAILABLE, "replica_lost", "the connection was closed")
            call.cancel()
        await asyncio.wait([self._task])

    def sweep(self, now: float) -> None:
        """gRPC keeps the deadlines of unary calls itself."""

    async def _watch(self) -> None:
        while not self._retired.is_set():
            is_ready = await self._is_ready()
            if not self._retired.is_set():
                self.state = State.OPEN if is_ready else State.CONNECTING
            self.tried.set()
            try:
                await asyncio.wait_for(self._retired.wait(), ASK_EVERY_S)
            except TimeoutError:
                continue
        while self._calls:
            await asyncio.wait(set(self._calls.values()))
            await asyncio.sleep(0)
        await self._channel.close()

    async def _is_ready(self) -> bool:
        try:
            answer = await self._ready(b"", timeout=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer == b"\x08\x01")  # ServerReadyResponse(ready=True)

    async def _answer(self, attempt: Attempt) -> None:
        try:
            request = parse_request(attempt.body)
        except Invalid as error:
            attempt.end(Ending.ANSWERED, 3, error.code, error.message)
            return
        name = request.model_name
        keep_declared(request, self._revision.model_schema)
        body = request.SerializeToString() + encode_head(model_name=self._revision.model_id) + _NO_VERSION
        timeout = max(0.001, attempt.deadline - self._loop.time())
        try:
            response = await self._infer(body, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            self._failed(attempt, error)
            return
        self.ejection.succeeded()
        attempt.parts = self._pack(request, response)
        attempt.response = response + encode_head(model_name=name, model_version=self._revision.model_version)
        attempt.end(Ending.ANSWERED)

    def _pack(self, request: Any, response: bytes) -> tuple[Part, ...]:
        try:
            return pack(request, response, self._revision.model_schema)
        except UnpackableError as error:
            self._hooks.unlogged(self.peer, str(error))
            return ()

    def _failed(self, attempt: Attempt, error: grpc.aio.AioRpcError) -> None:
        code, details = error.code().value[0], error.details() or ""
        if code == DEADLINE_EXCEEDED:
            attempt.end(
                Ending.EXPIRED, code, "deadline_exceeded", "the deadline passed before the answer came"
            )
        elif is_replica_failure(code):
            if self.ejection.failed(self._loop.time()):
                self._hooks.ejected(self.peer, f"failed answers in a row, the last with status {code}")
            attempt.end(Ending.ANSWERED, code, "peer_failed", details)
        else:
            self.ejection.succeeded()
            attempt.end(Ending.ANSWERED, code, "peer_refused", details)
