"""One client call as every door hands it over, its answer, and the record that it leaves.

Plain values: doors (gRPC, REST) make `Call` and read `Answer`; the prediction log reads `Entry`. Times are the
event loop's (`loop.time()`) where they end in nothing, Unix microseconds where they end in `_us`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from phantom_platform.errors import PhantomError

DEFAULT_WORKSPACE = "default"
DEFAULT_DEADLINE_S = 30.0
"""For calls whose client gave none (contracts §7)."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Larger requests are refused: RESOURCE_EXHAUSTED, 413."""

_MAX_KNOWN = 1024

# A row range of a shared packed block: (block, first row in the block, rows, first row in the call).
Part = tuple[bytes, int, int, int]


@dataclass(slots=True)
class Call:
    """One client call. `model_name` names an endpoint, `model_version` pins a version where not empty."""

    model_name: str
    model_version: str
    request_id: str
    # Serialized inference.ModelInferRequest, as received.
    body: bytes
    # A metadata or header value by its lower-case key; None where absent.
    unit_metadata: Callable[[str], str | None]
    # The loop's time by which the client wants the answer.
    deadline: float
    workspace: str = DEFAULT_WORKSPACE
    # Header phantom-override-revision.
    override_revision: str = ""
    # Bearer token without the scheme; empty where none came.
    token: str = ""
    # Header traceparent; looked at only where it says "sampled".
    traceparent: str = ""
    # A request parameter as unit text (contracts §4) by name; None where absent. Raises Invalid for floats.
    parameter: Callable[[str], str | None] | None = None


@dataclass(slots=True)
class Answer:
    """What a call got. `body` is a serialized inference.ModelInferResponse where `status` is 0 (OK)."""

    prediction_id: bytes
    status: int
    body: bytes
    revision: str
    variant: str
    route_version: int
    # Stable code and words, where the status is not OK.
    reason: str = ""
    message: str = ""
    experiment_version: int = 0
    fallback: bool = False
    retry_after_s: float | None = None
    # Why it was refused before a replica was chosen; with what it says besides code and message.
    refusal: PhantomError | None = None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Initial metadata of a unary answer, headers of an HTTP one; all lower case, ASCII."""
        base: tuple[tuple[str, str], ...] = (
            ("phantom-prediction-id", id_text(self.prediction_id)),
            ("phantom-revision", self.revision),
            ("phantom-variant", self.variant),
            ("phantom-route-version", str(self.route_version)),
        )
        if self.experiment_version:
            base = (*base, ("phantom-experiment-version", str(self.experiment_version)))
        return (*base, ("phantom-fallback", "true")) if self.fallback else base


class RouteMemo:
    """What answers repeat but for their prediction id, encoded once for each route, revision and arm."""

    def __init__(self, encode: Callable[[Answer], bytes]) -> None:
        self._encode = encode
        self._known: dict[tuple[str, str, int, int, bool], bytes] = {}

    def of(self, answer: Answer) -> bytes:
        """As `encode` makes it of this answer, or made it of one that differs in nothing else."""
        key = (
            answer.revision,
            answer.variant,
            answer.route_version,
            answer.experiment_version,
            answer.fallback,
        )
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            found = self._known[key] = self._encode(answer)
        return found


def id_text(prediction_id: bytes) -> str:
    """16 bytes as a UUID is written."""
    digits = prediction_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@dataclass(slots=True)
class FailedAttempt:
    """An attempt that did not give the answer."""

    revision: str
    replica: str
    code: int
    latency_us: int


@dataclass(slots=True)
class Entry:
    """What the prediction log keeps of one call. `answered_us` is stamped by the log."""

    # `<workspace>/<endpoint>`, the canonical endpoint, never an alias.
    endpoint_key: str
    prediction_id: bytes
    request_id: str
    # Empty where the call had no unit (unsticky).
    unit: str
    assigned_revision: str
    served_revision: str
    # Empty where no replica answered.
    served_replica: str
    # control, candidate, or <experiment>/<arm>.
    arm: str
    # Decision of phantom.predictions.v1.
    decision: int
    route_version: int
    experiment_version: int
    # gRPC status code of the answer.
    status: int
    received_us: int
    parts: tuple[Part, ...] = ()
    failed_attempts: tuple[FailedAttempt, ...] = ()
    # Of a sampled call: travels in its batch's header.
    traceparent: str = ""
