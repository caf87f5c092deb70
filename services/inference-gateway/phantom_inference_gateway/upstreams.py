"""Frame streams to model servers: one a (endpoint, replica), opened eagerly and opened again when they end."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_inference_gateway.attempts import DEADLINE_EXCEEDED, UNAVAILABLE, Attempt
from phantom_inference_gateway.domain.admission import AdmissionRule, Gate
from phantom_inference_gateway.domain.ejection import Ejection, EjectionRule
from phantom_inference_gateway.domain.frames import FrameLimits, FrameQueue
from phantom_inference_gateway.domain.retry import Ending, is_replica_failure
from phantom_inference_gateway.frame_codec import BadAnswerError, encode_frame, settle
from phantom_platform.http2.client import ClientCall, open_stream
from phantom_platform.telemetry import logs

log = logs.get(__name__)

METHOD = "/phantom.modelserver.v1.ModelServerService/Frames"
MAX_ANSWER_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StreamRule:
    """How streams behave. Times in seconds."""

    frames: FrameLimits = field(default_factory=FrameLimits)
    ejection: EjectionRule = field(default_factory=EjectionRule)
    admission: AdmissionRule = field(default_factory=AdmissionRule)
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
        self.gate = Gate(rule.admission)
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
        self._call: ClientCall | None = None
        # Of the stream that is there: done once the replica has said that it is the one.
        self._opened = self._loop.create_future()
        self._is_scheduled = False
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
        self._schedule()

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
        if self.state is State.OPEN and self._call is not None:
            self._say_open(self._call)

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
            self._cancel()

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
        self._opened = self._loop.create_future()
        try:
            async with asyncio.timeout(self._rule.open_timeout_s):
                call = self._call = await open_stream(
                    self.peer.address, METHOD, self._received, max_message=MAX_ANSWER_BYTES
                )
                self._say_open(call)
                await asyncio.wait((self._opened, call.ended_with), return_when=asyncio.FIRST_COMPLETED)
            if self._retired.is_set():
                self._close_if_idle()
            ended = await call.ended_with
            self._note(ended.code, ended.details)
        except TimeoutError:
            log.warning("replica does not answer", action="stream_broke", replica=self.replica_id)
        except OSError as error:
            log.debug("replica not reached", action="not_reached", replica=self.replica_id, error=str(error))
        finally:
            self._end()
        return self._opened.done()

    def _say_open(self, call: ClientCall) -> None:
        opening = self._hooks.opening(self.peer)
        self.schema_version = opening.schema_version
        call.write_nowait(pb.FramesRequest(open=opening).SerializeToString())

    def _received(self, raw: bytes) -> None:
        """A message of the replica. What does not fit ends the stream; nothing is raised."""
        try:
            message = pb.FramesResponse.FromString(raw)
            kind = message.WhichOneof("message")
            if kind == "frame":
                self._answered(message.frame)
            elif kind == "draining":
                self._drain(message.draining.route_record)
            elif kind == "opened" and not self._opened.done():
                self._take_opened(message.opened)
        except (BadAnswerError, DecodeError) as error:
            log.warning("stream broke", action="stream_broke", replica=self.replica_id, error=str(error))
            self._cancel()
            return
        if self.state is not State.OPEN:
            self._close_if_idle()

    def _take_opened(self, opened: pb.Opened) -> None:
        if (opened.replica_id, opened.revision) != (self.peer.replica_id, self.peer.revision):
            self._note(grpc.StatusCode.FAILED_PRECONDITION, f"wrong_replica: {opened.replica_id} answered")
            self._cancel()
            return
        self._opened.set_result(None)
        if self.state is not State.RETIRED:
            self.state = State.OPEN
        self.tried.set()

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _answered(self, answer: pb.AnswerFrame) -> None:
        frame = self._queue.answered(answer.sequence)
        if frame is None:
            raise BadAnswerError(f"an answer to frame {answer.sequence}, which is not in flight")
        try:
            refused = settle(frame, answer)
        except BadAnswerError:
            self._queue.in_flight[frame.sequence] = frame  # they are lost with the stream
            raise
        now = self._loop.time()
        if refused and self.state is State.OPEN:
            self._drain(b"")
        if answer.codes:
            self._judge(list(answer.codes), now)
        else:
            self.ejection.succeeded()
        if len(self._queue):
            self._schedule()

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

    def _end(self) -> None:
        call, self._call = self._call, None
        was_refused = self.state is State.WRONG_REPLICA
        if self.state is State.OPEN:
            self.state = State.CONNECTING
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unsent, sent = self._queue.clear()
        for attempt in unsent:
            attempt.end(Ending.UNSENT, UNAVAILABLE, "no_ready_replica", "the replica's stream ended")
        if sent and not was_refused and self.ejection.failed(self._loop.time()):
            self._hooks.ejected(self.peer, "its stream ended with calls in execution")
        for attempt in sent:
            ending = Ending.REFUSED if was_refused else Ending.LOST
            attempt.end(ending, UNAVAILABLE, "replica_lost", "the replica went away while it answered")
        if call is not None:
            call.cancel()

    # -- writing -------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Look at the queue once, after all that this turn of the event loop brings: one frame takes it together."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        """Send the frames that are due; come back when the next one is."""
        self._is_scheduled = False
        call, queue = self._call, self._queue
        if call is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        while (due := queue.due(now)) == 0.0:
            frame = queue.cut(now)
            if frame is not None:
                self.frames += 1
                self.frame_calls += len(frame.calls)
                call.write_nowait(encode_frame(frame, now))
        if due is not None:
            self._timer = self._loop.call_later(_whole_ms(due), self._write)

    def _release_waiting(self) -> None:
        for attempt in self._queue.drop_waiting():
            attempt.end(Ending.UNSENT, UNAVAILABLE, "draining", "the replica is draining")

    def _close_if_idle(self) -> None:
        if not self._queue.in_flight:
            self._cancel()


def _whole_ms(seconds: float) -> float:
    """Rounded up: uvloop's timers count milliseconds, and one that fires early is set again and again."""
    return math.ceil(seconds * 1000) / 1000
