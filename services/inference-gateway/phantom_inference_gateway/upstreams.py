"""Frame streams to model servers: one a (endpoint, replica), opened eagerly and opened again when they end."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_inference_gateway.attempts import DEADLINE_EXCEEDED, UNAVAILABLE, Attempt
from phantom_inference_gateway.domain.ejection import Ejection, EjectionRule
from phantom_inference_gateway.domain.frames import FrameLimits, FrameQueue
from phantom_inference_gateway.domain.retry import Ending, is_replica_failure
from phantom_inference_gateway.frame_codec import BadAnswerError, encode_frame, settle
from phantom_platform.telemetry import logs

log = logs.get(__name__)

METHOD = "/phantom.modelserver.v1.ModelServerService/Frames"
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A connection a stream: what one peer does to its own never holds up another.
    ("grpc.use_local_subchannel_pool", 1),
    # A replica whose host vanished without a word is noticed within about 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class StreamRule:
    """How streams behave. Times in seconds."""

    frames: FrameLimits = field(default_factory=FrameLimits)
    ejection: EjectionRule = field(default_factory=EjectionRule)
    open_timeout_s: float = 5.0
    # How long after its latest deadline a frame may stay unanswered: a client's tiny deadline ejects nobody.
    silence_grace_s: float = 1.0
    backoff_base_s: float = 0.05
    backoff_limit_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a stream is for."""

    workspace: str
    endpoint: str
    replica_id: str
    revision: str
    address: str


class State(enum.Enum):
    CONNECTING = "connecting"
    OPEN = "open"
    DRAINING = "draining"
    WRONG_REPLICA = "wrong_replica"
    RETIRED = "retired"


@dataclass(slots=True)
class Hooks:
    """What a stream tells, and the randomness it takes."""

    # The opening message for a peer, with the endpoint's schema as it is now.
    opening: Callable[[Peer], pb.Open]
    # A draining replica's route record; empty where it has none.
    draining: Callable[[Peer, bytes], None]
    ejected: Callable[[Peer, str], None]
    # A plain OIP answer whose features could not be logged, and why.
    unlogged: Callable[[Peer, str], None]
    # A number in [0, 1), for the jitter of back-offs.
    random: Callable[[], float]


class FrameStream:
    """A `Target` of one endpoint and replica."""

    def __init__(self, peer: Peer, rule: StreamRule, hooks: Hooks) -> None:
        self.peer = peer
        self.replica_id = peer.replica_id
        self.outstanding = 0
        self.state = State.CONNECTING
        self.ejection = Ejection(rule.ejection)
        # Set once the first attempt to open has ended, in whichever way.
        self.tried = asyncio.Event()
        self.schema_version = 0
        self.reconnects = 0
        # Frames written, and the calls in them.
        self.frames = self.frame_calls = 0
        self._rule = rule
        self._hooks = hooks
        self._queue: FrameQueue[Attempt] = FrameQueue(rule.frames)
        self._loop = asyncio.get_running_loop()
        self._call: Any = None
        self._must_reopen = False
        self._sleeper: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retired = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"stream {peer.endpoint} {peer.replica_id}")

    # -- as a Target ---------------------------------------------------------------------------------------

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
        self._queue.add(attempt, now)
        if self._sleeper is not None:
            self._nudge(now)

    def release(self, attempt: Attempt, now: float) -> None:
        self.outstanding -= 1
        if attempt.ending is Ending.UNSENT or attempt.ending is Ending.EXPIRED:
            self.ejection.abandoned(now)

    @property
    def is_busy(self) -> bool:
        """Something waits here, or is in execution although nobody waits for it any longer."""
        return self.outstanding > 0 or bool(self._queue.in_flight)

    # -- for its owner -------------------------------------------------------------------------------------

    def schema_changed(self) -> None:
        """Say `open` again, with the schema as it is now."""
        if self.state is State.OPEN:
            self._must_reopen = True
            self._wake()

    def retire(self) -> None:
        """Take no more; close when nothing is in flight any longer."""
        self.state = State.RETIRED
        self._retired.set()
        self._release_waiting()
        self._close_if_idle()

    async def closed(self) -> None:
        """Returns when a retired stream has closed."""
        await asyncio.wait([self._task])

    async def abort(self) -> None:
        """Close now, whatever is in flight."""
        self.retire()
        self._task.cancel()
        await asyncio.wait([self._task])

    def sweep(self, now: float) -> None:
        """End what is past its deadline; eject the replica where a whole frame is."""
        for attempt in self._queue.expired(now):
            attempt.end(
                Ending.EXPIRED,
                DEADLINE_EXCEEDED,
                "deadline_exceeded",
                "the deadline passed before the answer came",
            )
        if self._call is not None and self._queue.overdue(now - self._rule.silence_grace_s):
            if self.ejection.fell_silent(now):
                self._hooks.ejected(self.peer, "a frame was not answered by its latest deadline")
            self._call.cancel()

    # -- its life ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while not self._retired.is_set():
            was_open = await self._serve()
            self.tried.set()
            if self._retired.is_set():
                return
            failures = 0 if was_open else failures + 1
            base = min(self._rule.backoff_limit_s, self._rule.backoff_base_s * 2 ** min(failures, 10))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), base * (0.5 + self._hooks.random() / 2))
            self.reconnects += 1

    async def _serve(self) -> bool:
        """One stream from opening to end; whether it was open at all."""
        was_open = False
        writer: asyncio.Task[None] | None = None
        channel = grpc.aio.insecure_channel(self.peer.address, options=CHANNEL_OPTIONS)
        call: Any = channel.stream_stream(METHOD)()
        try:
            async with asyncio.timeout(self._rule.open_timeout_s):
                await call.write(pb.FramesRequest(open=self._opening()).SerializeToString())
                was_open = await self._read_opened(call)
            if was_open and not self._retired.is_set():
                self.state, self._call = State.OPEN, call
                self.tried.set()
                writer = asyncio.create_task(self._write(call))
                await self._read(call)
        except (TimeoutError, grpc.aio.UsageError, asyncio.InvalidStateError, BadAnswerError) as error:
            log.warning("stream broke", action="stream_broke", replica=self.replica_id, error=str(error))
        except grpc.aio.AioRpcError as error:
            self._note(error.code(), error.details() or "")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The stream was cancelled from here (retired, silent): grpc says so in this way.
        finally:
            await self._end(call, channel, writer)
        return was_open

    def _opening(self) -> pb.Open:
        opening = self._hooks.opening(self.peer)
        self.schema_version = opening.schema_version
        return opening

    async def _read_opened(self, call: Any) -> bool:
        raw = await call.read()
        if raw is grpc.aio.EOF:
            self._note(await call.code(), await call.details() or "")
            return False
        message = pb.FramesResponse.FromString(raw)
        if message.WhichOneof("message") == "draining":
            self._drain(message.draining.route_record)
            return False
        opened = message.opened
        if (opened.replica_id, opened.revision) != (self.peer.replica_id, self.peer.revision):
            self._note(grpc.StatusCode.FAILED_PRECONDITION, f"wrong_replica: {opened.replica_id} answered")
            return False
        return True

    async def _read(self, call: Any) -> None:
        while True:
            raw = await call.read()
            if raw is grpc.aio.EOF:
                self._note(await call.code(), await call.details() or "")
                return
            message = pb.FramesResponse.FromString(raw)
            kind = message.WhichOneof("message")
            if kind == "frame":
                self._answered(message.frame)
            elif kind == "draining":
                self._drain(message.draining.route_record)
            if self.state is not State.OPEN and self._close_if_idle():
                return

    def _answered(self, answer: pb.AnswerFrame) -> None:
        frame = self._queue.answered(answer.sequence)
        if frame is None:
            raise BadAnswerError(f"an answer to frame {answer.sequence}, which is not in flight")
        try:
            _, refused = settle(frame, answer)
        except ValueError:
            self._queue.in_flight[frame.sequence] = frame  # they are lost with the stream
            raise
        now = self._loop.time()
        if refused and self.state is State.OPEN:
            self._drain(b"")
        self._judge(list(answer.codes), now)
        if self._sleeper is not None and len(self._queue):
            self._nudge(now)

    def _judge(self, codes: list[int], now: float) -> None:
        if not any(map(is_replica_failure, codes)):
            self.ejection.succeeded()
            return
        for code in codes:
            if not is_replica_failure(code):
                self.ejection.succeeded()
            elif self.ejection.failed(now):
                self._hooks.ejected(self.peer, f"failed answers in a row, the last with status {code}")

    def _drain(self, route_record: bytes) -> None:
        if self.state is State.OPEN or self.state is State.CONNECTING:
            self.state = State.DRAINING
        self._hooks.draining(self.peer, route_record)
        self._release_waiting()

    def _note(self, code: grpc.StatusCode, details: str) -> None:
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            log.warning(
                "address answers for another replica",
                action="wrong_replica",
                replica=self.replica_id,
                details=details,
            )
            if self.state is not State.RETIRED:
                self.state = State.WRONG_REPLICA
        elif self.state is State.OPEN:
            log.info(
                "stream ended",
                action="stream_ended",
                replica=self.replica_id,
                code=code.name,
                details=details,
            )

    async def _end(self, call: Any, channel: Any, writer: asyncio.Task[None] | None) -> None:
        self._call = None
        was_refused = self.state is State.WRONG_REPLICA
        if self.state is State.OPEN:
            self.state = State.CONNECTING
        if writer is not None:
            writer.cancel()
        unsent, sent = self._queue.clear()
        for attempt in unsent:
            attempt.end(Ending.UNSENT, UNAVAILABLE, "no_ready_replica", "the replica's stream ended")
        if sent and not was_refused and self.ejection.failed(self._loop.time()):
            self._hooks.ejected(self.peer, "its stream ended with calls in execution")
        for attempt in sent:
            ending = Ending.REFUSED if was_refused else Ending.LOST
            attempt.end(ending, UNAVAILABLE, "replica_lost", "the replica went away while it answered")
        call.cancel()
        await channel.close()

    # -- writing -------------------------------------------------------------------------------------------

    async def _write(self, call: Any) -> None:
        queue, loop = self._queue, self._loop
        try:
            while True:
                if self._must_reopen:
                    self._must_reopen = False
                    await call.write(pb.FramesRequest(open=self._opening()).SerializeToString())
                now = loop.time()
                due = queue.due(now)
                if due != 0.0:
                    await self._sleep(due)
                    continue
                frame = queue.cut(now)
                if frame is not None:
                    self.frames += 1
                    self.frame_calls += len(frame.calls)
                    await call.write(encode_frame(frame, now))
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            call.cancel()  # the reader learns the status

    async def _sleep(self, due: float | None) -> None:
        self._sleeper = self._loop.create_future()
        if due is not None:
            self._timer = self._loop.call_later(_whole_ms(due), self._wake)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _nudge(self, now: float) -> None:
        due = self._queue.due(now)
        if due == 0.0:
            self._wake()
        elif due is not None and self._timer is None:
            self._timer = self._loop.call_later(_whole_ms(due), self._wake)

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _release_waiting(self) -> None:
        for attempt in self._queue.drop_waiting():
            attempt.end(Ending.UNSENT, UNAVAILABLE, "draining", "the replica is draining")

    def _close_if_idle(self) -> bool:
        if self._queue.in_flight or self._call is None:
            return False
        self._call.cancel()
        return True


def _whole_ms(seconds: float) -> float:
    """Rounded up: uvloop's timers count milliseconds, and one that fires early is set again and again."""
    return math.ceil(seconds * 1000) / 1000
