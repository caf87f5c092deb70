"""Calls that go on while something is done to the stack, a ledger of how each ended, and what must hold then."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace, TracebackType
from typing import Any

import grpc

from faults.log import Log, read_log
from harness import oip
from harness.waiting import eventually
from phantom_demo.invariants import check_all
from phantom_demo.replay import Answered
from phantom_ml_studio import Deployments, Monitoring

UNITS = 400
DEADLINE_S = 30.0
# Calls that go on are answered soon, whatever else happens: far below their deadline.
SOON_S = 5.0
# The monitor counts what is in the topic; what was spilled comes there first.
SETTLE_S = 60.0
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1000)]
_INFER = f"{oip.SERVICE}/ModelInfer"


@dataclass(slots=True)
class Call(Answered):
    """A call and when it was sent and had ended, by the monotonic clock."""

    sent: float
    ended: float


class Traffic:
    """Workers that call one endpoint at a steady rate for as long as the block lasts.

    `calls` is the ledger: `calls[i].flight` is an index into `units`. The block begins with the first answers,
    unless `awaits` is False: then nobody says that there will be any.
    """

    def __init__(
        self, gateway: str, endpoint: str, *, per_second: float = 150.0, workers: int = 8, awaits: bool = True
    ) -> None:
        self.gateway = gateway
        self.endpoint = endpoint
        self.calls: list[Call] = []
        self.units: list[str] = []
        # What each call said of the feature that decides.
        self.amounts: list[float] = []
        self._awaits = awaits
        self._run = uuid.uuid4().hex[:8]
        self._pause_s = workers / per_second
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._may_send = threading.Event()
        self._may_send.set()
        self._busy = 0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        if self._awaits:
            self.advance(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._may_send.set()
        for thread in self._threads:
            thread.join(DEADLINE_S + 5)

    @property
    def answered(self) -> list[Call]:
        """Calls that got an answer."""
        return [call for call in self.calls if not call.error]

    @property
    def failures(self) -> list[str]:
        """How the others ended."""
        return [call.error for call in self.calls if call.error]

    def advance(self, count: int, within_s: float = 30.0) -> None:
        """Wait for so many more answers."""
        goal = len(self.answered) + count
        eventually(lambda: len(self.answered) >= goal, f"{count} more answers; {self._latest()}", within_s)

    def flow(self, seconds: float) -> None:
        """Let it go on for a while: what is tested is that nothing happens to it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.advance(1, SOON_S)

    def pause(self) -> None:
        """Returns when no call is under way; none is sent until `resume`."""
        self._may_send.clear()
        eventually(lambda: self._busy == 0, "the end of the calls under way", DEADLINE_S + 5)

    def resume(self) -> None:
        """Go on."""
        self._may_send.set()

    def assert_unharmed(self) -> None:
        """No call failed, and none had to wait for what was away."""
        failures = self.failures
        assert not failures, f"{len(failures)} of {len(self.calls)} calls failed, such as {failures[:3]}"
        slowest = max(call.latency_ms for call in self.calls)
        assert slowest < SOON_S * 1000, f"a call took {slowest:.0f} ms"

    def forgive(self) -> None:
        """Take the calls that failed out of the ledger: the test has looked at them, and they were to fail."""
        self.calls = self.answered

    def _latest(self) -> str:
        return f"the last failures: {self.failures[-3:]}"

    def _work(self) -> None:
        with grpc.insecure_channel(self.gateway, options=_OPTIONS) as channel:
            infer = channel.unary_unary(_INFER)
            while not self._stopping.is_set():
                self._may_send.wait()
                with self._lock:
                    self._busy += 1
                try:
                    if self._may_send.is_set() and not self._stopping.is_set():
                        self._call(infer)
                finally:
                    with self._lock:
                        self._busy -= 1
                self._stopping.wait(self._pause_s)

    def _call(self, infer: Any) -> None:
        unit, amount = f"u{random.randrange(UNITS)}", random.random()
        with self._lock:
            number = len(self.units)
            self.units.append(unit)
            self.amounts.append(amount)
        message = oip.request(
            self.endpoint,
            {"amount": [amount], "hour": [random.random()]},
            id=f"{self._run}-{number}",
            user_id=unit,
        )
        call = infer.future(message.SerializeToString(), timeout=DEADLINE_S)
        sent = time.monotonic()
        metadata: dict[str, str] = {}
        error = ""
        try:
            call.result()
        except grpc.RpcError as failed:
            said = oip.failure(failed)
            error = f"{said.status} {said.code}: {said.message}"
        ended = time.monotonic()
        metadata = {key: str(value) for key, value in call.initial_metadata() or ()}
        self.calls.append(_call_of(number, metadata, error, sent, ended))


def _call_of(number: int, metadata: dict[str, str], error: str, sent: float, ended: float) -> Call:
    return Call(
        flight=number,
        prediction_id=metadata.get("phantom-prediction-id", ""),
        revision=metadata.get("phantom-revision", ""),
        variant=metadata.get("phantom-variant", ""),
        route_version=int(metadata.get("phantom-route-version", "0")),
        fallback=metadata.get("phantom-fallback") == "true",
        error=error,
        latency_ms=(ended - sent) * 1000,
        sent=sent,
        ended=ended,
    )


class Books:
    """The ledgers of one endpoint against what the topic, the deployer and the monitor say.

    Made before the traffic, since the endpoint may have been called before.
    """

    def __init__(
        self, kafka: Callable[[], str], endpoint: str, deployments: Deployments, monitoring: Monitoring
    ) -> None:
        self._kafka = kafka
        self._endpoint = endpoint
        self._deployments = deployments
        self._monitoring = monitoring
        # Of a test before this one nothing must be under way.
        self._counted_before = sum(self._log().answered.values())
        eventually(
            lambda: self.counted() == self._counted_before, f"counting {self._counted_before}", SETTLE_S
        )

    def counted(self) -> int:
        """Answered calls that the monitor has counted so far."""
        return int(self._monitoring.counts(self._endpoint)["answered_calls"])

    def check(self, *traffics: Traffic) -> Log:
        """Fails naming what does not hold: see the demo's invariants. Waits until the monitor has seen all."""
        calls, units = _merged(traffics)
        expected = self._counted_before + sum(not call.error for call in calls)
        # A count that does not arrive is a verdict below, with its figures.
        with suppress(AssertionError):
            eventually(lambda: self.counted() >= expected, "counting every answer", SETTLE_S)
        log = self._log()
        routes = {
            version: self._route(version) for version in {c.route_version for c in calls if not c.error}
        }
        flights: Any = SimpleNamespace(tail=units)
        counted = self.counted() - self._counted_before
        verdicts = check_all(calls, flights, routes, log.answered, counted)
        broken = [f"{each.name}: {each.evidence}" for each in verdicts if not each.holds]
        assert not broken, "; ".join(broken)
        assert not log.unmarked_repeats, f"sent twice and not marked: {log.unmarked_repeats[:3]}"
        return log

    def _log(self) -> Log:
        return read_log(self._kafka(), self._endpoint)

    def _route(self, version: int) -> Any:
        return self._deployments.route(self._endpoint, version)


def _merged(traffics: Iterable[Traffic]) -> tuple[list[Call], Sequence[str]]:
    """Several ledgers as one."""
    calls: list[Call] = []
    units: list[str] = []
    for traffic in traffics:
        calls += [replace(call, flight=call.flight + len(units)) for call in traffic.calls]
        units += traffic.units
    return calls, units
