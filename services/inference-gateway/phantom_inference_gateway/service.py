"""The gateway's use cases: answer a call, and say what stands behind an endpoint.

Doors call these methods and map `phantom_platform.errors` to their own statuses. Nothing here waits for Kafka,
Postgres or another service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from phantom_contracts.tensors import Tensor, endpoint_inputs, model_outputs
from phantom_inference_gateway import admitting, choosing
from phantom_inference_gateway.attempts import DEADLINE_EXCEEDED, UNAVAILABLE, Attempt, Target
from phantom_inference_gateway.calls import Answer, Call, Entry, FailedAttempt, Part
from phantom_inference_gateway.descriptions import ModelMetadata, ServerMetadata
from phantom_inference_gateway.domain.replicas import choose
from phantom_inference_gateway.domain.retry import Ending, RetryBudget, Step, Trial, next_step
from phantom_inference_gateway.domain.tables import Table
from phantom_inference_gateway.journey import Journey, Limits, Source
from phantom_inference_gateway.ports import Gatekeeper, Observer, Records, RouteTables
from phantom_inference_gateway.shadowing import Shadows
from phantom_platform.errors import Exhausted, NotFound, PhantomError
from phantom_platform.rpc.status import code_of

__all__ = [
    "Answer",
    "Call",
    "Entry",
    "FailedAttempt",
    "Gateway",
    "Limits",
    "ModelMetadata",
    "ServerMetadata",
    "Source",
    "Tensor",
]

SERVER_NAME = "phantom-inference-gateway"
SERVER_VERSION = "0.1.0"
EXTENSIONS = ("binary_tensor_data", "model_stream_infer")
RETRY_AFTER_S = 1.0
_CANCELLED = 1
_DEADLINE_SLACK_S = 0.01


class Gateway:
    """Answers calls. One a process."""

    def __init__(
        self,
        routes: RouteTables,
        gatekeeper: Gatekeeper,
        records: Records,
        observer: Observer,
        source: Source,
        limits: Limits | None = None,
    ) -> None:
        self._routes = routes
        self._gatekeeper = gatekeeper
        self._records = records
        self._observer = observer
        self._source = source
        self._limits = limits or Limits()
        self.shadows = Shadows(records, source, self._limits.shadows)
        self.budget = RetryBudget(burst=self._limits.calls)
        self._loop = asyncio.get_running_loop()
        self._size = 0
        self.in_flight = 0
        # Set by the composition root.
        self.is_ready: Callable[[], bool] = lambda: True
        self.is_stale: Callable[[], bool] = lambda: False
        self._idle: asyncio.Future[None] | None = None

    # -- answering -------------------------------------------------------------------------------------------

    async def infer(self, call: Call) -> Answer:
        """The answer, also where the call was refused or failed after its endpoint was known (`status` is then not 0).

        Raises what has no record: NotFound (endpoint), Exhausted (shed), Unauthenticated, Forbidden.
        """
        size = len(call.body)
        try:
            if self.in_flight >= self._limits.calls or self._size + size > self._limits.size:
                raise self._shed()
            if self._gatekeeper.concerns(call):
                await self._gatekeeper.admit(call)
            table = self._routes.find(call.workspace, call.model_name)
        except PhantomError as error:
            self._observer.refuse(error.code)
            raise
        journey = self._begin(call, table)
        self.in_flight += 1
        self._size += size
        try:
            if journey.is_exact:
                await self._check_exact(journey)
            journey.take(*choosing.choose(call, table.plan, journey.prediction_id))
            return await self._answer(journey)
        except admitting.Overloaded as error:
            self._observer.shed += 1
            self._observer.refuse(error.code)
            self._observer.overload(table.key, journey.revision, error.why)
            raise
        except PhantomError as error:
            return self._refused(journey, error)
        except asyncio.CancelledError:
            # gRPC itself cancels at a client's deadline, give or take some milliseconds.
            late = self._loop.time() >= call.deadline - _DEADLINE_SLACK_S
            self._observer.cancelled += not late
            self._log(journey, DEADLINE_EXCEEDED if late else _CANCELLED, "")
            raise
        finally:
            self._size -= size
            self.in_flight -= 1
            if self._idle is not None and not self.in_flight and not self._idle.done():
                self._idle.set_result(None)

    async def idle(self) -> None:
        """Returns when no call is under way."""
        while self.in_flight:
            self._idle = self._loop.create_future()
            await self._idle

    def _shed(self) -> Exhausted:
        self._observer.shed += 1
        return Exhausted(
            f"{self.in_flight} calls of {self._size} bytes are under way, which is as much as this gateway takes "
            f"({self._limits.calls} calls, {self._limits.size} bytes); send fewer at once or try again later",
            code=admitting.CODE,
            retry_after_s=RETRY_AFTER_S,
        )

    def _begin(self, call: Call, table: Table[Target]) -> Journey:
        """The call is on record from here on; until more is known it is the stable revision's."""
        wall_ns = time.time_ns()
        stable = table.plan.stable
        return Journey(
            call,
            table,
            stable,
            "",
            choosing.is_exact(call),
            self._source.mint(wall_ns // 1_000_000),
            wall_ns // 1000,
            self._loop.time(),
            stable.revision,
        )

    async def _check_exact(self, journey: Journey) -> None:
        call, table = journey.call, journey.table
        journey.take(*choosing.asked(call, table.plan, journey.prediction_id))
        await choosing.check_exact(call, table, self._gatekeeper)

    async def _answer(self, journey: Journey) -> Answer:
        call, is_alone = journey.call, False
        while True:
            now = self._loop.time()
            if now >= call.deadline:
                return self._failed(journey, self._late())
            target = self._next_target(journey, now, is_alone)
            if target is None:
                return self._exhausted(journey)
            is_admitted = target.gate.admit(target.outstanding, now, call.deadline)
            if not journey.tried:  # once let in, a call is not refused: its retries have a budget
                if not is_admitted:
                    target = self._less_busy(journey, target, now)
                self.budget.count(now)
            attempt = Attempt(call.body, call.deadline, self._loop.create_future(), is_alone)
            table = journey.table
            table.attempts += 1
            target.send(attempt, now)
            if (shadow := table.plan.shadow) is not None and not journey.tried:
                self.shadows.offer(journey, shadow)
            try:
                await attempt.ended
            finally:
                table.attempts -= 1
                ended = self._loop.time()
                target.release(attempt, ended)
                if attempt.ending is Ending.ANSWERED:
                    target.gate.answered(ended - now, ended, attempt.code == 0)
                elif ended >= call.deadline - _DEADLINE_SLACK_S:
                    target.gate.late(ended)
            if attempt.ending is Ending.ANSWERED and attempt.code == 0:
                return self._succeeded(journey, attempt, target)
            step = self._after(journey, attempt, target, now)
            if step is Step.DONE:
                return self._failed(journey, attempt)
            is_alone = step is Step.ALONE
            self._renew(journey, is_alone)

    def _next_target(self, journey: Journey, now: float, is_alone: bool) -> Target | None:
        """A replica of the revision that is due; of the stable one where that has none and it may be."""
        targets = journey.table.targets
        target = choose(targets.get(journey.revision, ()), now, self._source.below, journey.tried)
        stable = journey.table.plan.control
        if target is None and not (is_alone or journey.is_exact or journey.revision == stable):
            journey.revision = stable
            target = choose(targets.get(stable, ()), now, self._source.below, journey.tried)
        return target

    def _less_busy(self, journey: Journey, target: Target, now: float) -> Target:
        """Another replica of the same revision whose queue is not too long; raises Overloaded where there is none."""
        deadline = journey.call.deadline
        found = admitting.another(journey.table.targets[journey.revision], target, now, deadline)
        if found is None:
            overload = target.gate.overload(target.outstanding, now, deadline)
            raise admitting.refusal(journey.revision, overload)
        return found

    def _after(self, journey: Journey, attempt: Attempt, target: Target, sent: float) -> Step:
        """What follows an attempt that gave no answer; keeps it for the record where it counts."""
        trial = journey.trial = journey.trial or Trial()
        journey.tried = (*journey.tried, target)
        counts = attempt.ending not in (Ending.UNSENT, Ending.REFUSED)
        now = self._loop.time()
        step = next_step(attempt.ending, attempt.code, trial, self.budget, now)
        if counts and step is not Step.DONE:
            journey.last, journey.last_revision = attempt, journey.revision
            latency_us = int((now - sent) * 1e6)
            failed = FailedAttempt(journey.revision, target.replica_id, attempt.code, latency_us)
            journey.failed = (*journey.failed, failed)
            self._observer.retries += 1
        if step is Step.SAME_REVISION and trial.attempts > 1 and not journey.is_exact:
            journey.revision = journey.table.plan.control
        return step

    def _renew(self, journey: Journey, is_alone: bool) -> None:
        """A retry is chosen under the route that is applied when it is written."""
        try:
            table = self._routes.find(journey.call.workspace, journey.call.model_name)
            if table is journey.table:
                return
            choice, unit = choosing.choose(journey.call, table.plan, journey.prediction_id)
        except NotFound:
            return  # the endpoint or the version is gone: what is left of the old table decides
        if is_alone and choice.revision != journey.choice.revision:
            return
        fell_back = journey.revision != journey.choice.revision
        journey.table, journey.choice, journey.unit = table, choice, unit
        journey.revision = table.plan.control if fell_back else choice.revision

    # -- ending ----------------------------------------------------------------------------------------------

    def _succeeded(self, journey: Journey, attempt: Attempt, target: Target) -> Answer:
        choice, table = journey.choice, journey.table
        is_fallback = journey.revision != choice.revision
        if is_fallback:
            self._observer.fallbacks += 1
        self._log(journey, 0, target.replica_id, attempt.parts)
        return Answer(
            journey.prediction_id,
            0,
            attempt.response,
            journey.revision,
            choice.variant,
            table.version,
            experiment_version=choice.experiment_version,
            fallback=is_fallback,
        )

    def _exhausted(self, journey: Journey) -> Answer:
        """Nobody is left to ask: the last attempt's answer is the call's, if there was one."""
        if journey.last is None:
            journey.revision = journey.choice.revision
            return self._failed(journey, self._none_ready(journey))
        journey.revision = journey.last_revision
        journey.failed = journey.failed[:-1]
        return self._failed(journey, journey.last)

    def _failed(self, journey: Journey, attempt: Attempt) -> Answer:
        choice = journey.choice
        self._log(journey, attempt.code, "")
        return Answer(
            journey.prediction_id,
            attempt.code,
            b"",
            journey.revision,
            choice.variant,
            journey.table.version,
            reason=attempt.reason,
            message=attempt.message,
            experiment_version=choice.experiment_version,
            fallback=journey.revision != choice.revision,
            retry_after_s=RETRY_AFTER_S if attempt.code == UNAVAILABLE else None,
        )

    def _refused(self, journey: Journey, error: PhantomError) -> Answer:
        """Before a replica was chosen: on record with its status, and without features."""
        status: int = code_of(error).value[0]
        self._log(journey, status, "")
        choice = journey.choice
        return Answer(
            journey.prediction_id,
            status,
            b"",
            choice.revision,
            choice.variant,
            journey.table.version,
            reason=error.code,
            message=error.message,
            refusal=error,
        )

    def _log(
        self, journey: Journey, status: int, replica: str, parts: list[Part] | tuple[Part, ...] = ()
    ) -> None:
        call, choice, table = journey.call, journey.choice, journey.table
        self._records.record(
            Entry(
                table.key,
                journey.prediction_id,
                call.request_id,
                journey.unit,
                choice.revision,
                journey.revision,
                replica,
                choice.arm,
                choice.decision,
                table.version,
                choice.experiment_version,
                status,
                journey.received_us,
                tuple(parts),
                journey.failed,
                call.traceparent,
            )
        )
        seconds = self._loop.time() - journey.started
        self._observer.observe(table.key, journey.revision, choice.variant, status, seconds)

    def _none_ready(self, journey: Journey) -> Attempt:
        reason = "route_stale" if self.is_stale() else "no_ready_replica"
        why = (
            "the route is from a snapshot, since Kafka is away, and its replicas are gone"
            if reason == "route_stale"
            else f"no replica of revision {journey.choice.revision} takes calls at the moment"
        )
        return self._ended(UNAVAILABLE, reason, f"{why}; try again in a moment")

    def _late(self) -> Attempt:
        return self._ended(
            DEADLINE_EXCEEDED, "deadline_exceeded", "the deadline passed before the answer came"
        )

    def _ended(self, code: int, reason: str, message: str) -> Attempt:
        attempt = Attempt(b"", 0.0, self._loop.create_future())
        attempt.end(Ending.ANSWERED, code, reason, message)
        return attempt

    # -- describing ------------------------------------------------------------------------------------------

    async def admit(self, call: Call) -> None:
        """For calls about a model that predict nothing. Raises Unauthenticated or Forbidden."""
        if self._gatekeeper.concerns(call):
            await self._gatekeeper.admit(call)

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""
        return ServerMetadata(SERVER_NAME, SERVER_VERSION, EXTENSIONS)

    def server_ready(self) -> bool:
        """Whether calls should be sent here."""
        return self.is_ready()

    def routed(self, workspace: str) -> list[str]:
        """The endpoints of a workspace, sorted."""
        return self._routes.names(workspace)

    def model_ready(self, name: str, version: str, workspace: str) -> bool:
        """Whether some replica would take a call; False also where there is no such endpoint or version."""
        try:
            table = self._routes.find(workspace, name)
            revision = table.plan.pinned(version).id if version else table.plan.control
        except NotFound:
            return False
        now = self._loop.time()
        return any(each.is_open(now) for each in table.targets.get(revision, ()))

    def model_metadata(self, name: str, version: str, workspace: str) -> ModelMetadata:
        """Inputs are the endpoint's; outputs those of the pinned, else of the stable revision. Raises NotFound."""
        table = self._routes.find(workspace, name)
        revision_id = table.plan.pinned(version).id if version else table.plan.control
        record = self._routes.record(table)
        if record is None:
            raise NotFound(f"endpoint {table.endpoint} was just deleted", code="endpoint_not_found")
        revision = record.revision(revision_id)
        schema = revision.model_schema if revision is not None else None
        return ModelMetadata(
            name=name,
            versions=tuple(dict.fromkeys(each.model_version for each in record.revisions)),
            platform="phantom",
            inputs=endpoint_inputs(record.endpoint_schema),
            outputs=model_outputs(schema) if schema is not None else (),
            hash_field=record.hash_field,
        )
