"""What the monitor writes: windows, phantom.windows.v1, key `<workspace>/<endpoint>`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AwareDatetime

from phantom_contracts.events.base import Event, Value


class Sketch(Value):
    """A DDSketch: bin i counts values in (gamma^(i-1), gamma^i]; each of `steps` is the distance from the last bin."""

    relative_accuracy: float = 0.005
    zeros: int = 0
    # Values that were not finite, or negative.
    refused: int = 0
    steps: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


class LabelQuality(Value):
    """Per true label. `scores` is sparse: bin of 1,000 → count."""

    scores: dict[int, int] = {}
    log_loss_sum: float = 0.0
    log_loss_squares: float = 0.0
    # Predicted label → count.
    confusion: dict[str, int] = {}


class GroupSums(Value):
    """Sums of one of 64 unit groups."""

    requests: int = 0
    failures: int = 0
    # Calls that the revision refused as malformed.
    rejected: int = 0
    labelled: int = 0
    correct: int = 0
    # Sum over labelled rows, natural logarithm.
    log_loss: float = 0.0
    # Calls answered OK by latency: bin i holds [2^(i/2), 2^((i+1)/2)) ms. Only for the spread between units: quantiles
    # come from the window's sketch.
    latency: dict[int, int] = {}


class RegressionSums(Value):
    """Sums over labelled rows; `error` is prediction - actual."""

    count: int = 0
    error: float = 0.0
    error_squares: float = 0.0
    error_absolute: float = 0.0
    actual: float = 0.0
    actual_squares: float = 0.0


class Agreement(Value):
    """Rows of a shadow revision beside the answers that callers got."""

    compared: int = 0
    # The same label; for regression, values within 1e-6 of each other, relative.
    agreed: int = 0
    # Sums over compared rows of shadow score (or value) minus the answer's.
    difference: float = 0.0
    difference_squares: float = 0.0
    difference_absolute: float = 0.0


class WindowPublished(Event):
    """5 s of one endpoint × revision × arm × decision × route version × segment. The highest `revision_no` replaces."""

    type: ClassVar[str] = "phantom.monitor.WindowPublished.v1"
    endpoint: str
    revision: str
    arm: str
    decision: str
    route_version: int
    segment: str = ""
    start: AwareDatetime
    length_s: int = 5
    revision_no: int
    state: Literal["partial", "complete"]

    requests: int = 0
    # Requests whose answer was OK.
    answered: int = 0
    attempts: int = 0
    failed_attempts: int = 0
    rejected_inputs: int = 0
    fallbacks: int = 0
    rows: int = 0
    latency_ms: Sketch = Sketch()
    classes: dict[str, int] = {}
    scores: dict[int, int] = {}
    quality: dict[str, LabelQuality] = {}
    regression: RegressionSums | None = None
    # Group number → sums, only groups with traffic.
    groups: dict[int, GroupSums] = {}
    # Of windows with decision `shadow` (arm `shadow`).
    agreement: Agreement | None = None


class WindowsClosed(Event):
    """Every window of the endpoint that ends at or before `until` is published, whole as far as is known.

    Sent at least every 5 s while gateways send for the endpoint, also without traffic; after the windows, in order.
    """

    type: ClassVar[str] = "phantom.monitor.WindowsClosed.v1"
    endpoint: str
    until: AwareDatetime
    # Gateway processes that vouch for it.
    gateways: int
