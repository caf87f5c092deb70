"""When a window is complete: every gateway that could still add to it has passed its end (evidence §1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from phantom_monitor.domain.counts import WINDOW_S

SILENCE_S = 15.0
# Gateways send at least a watermark every 5 s: nothing at all for longer means that we were not reading.
GAP_S = 7.0


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of one gateway process for one endpoint. Times in unix seconds."""

    boot_id: str
    has_joined: bool
    has_left: bool
    # Its promise: no earlier answer will follow. None where it never sent anything for the endpoint.
    watermark_s: float | None
    last_heard_s: float


@dataclass(slots=True)
class Reading:
    """Since when we read without interruption."""

    since_s: float
    last_s: float

    def heard(self, now_s: float) -> None:
        """Something was read."""
        if now_s - self.last_s > GAP_S:
            self.since_s = now_s
        self.last_s = now_s


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known at one moment of each endpoint (workspace, id) that gateways sent for."""

    reading: Reading
    endpoints: Mapping[tuple[str, str], Sequence[Source]]
    # Of an endpoint that nobody sent for.
    elsewhere: Sequence[Source] = ()

    def sources(self, workspace: str, endpoint: str) -> Sequence[Source]:
        """The gateways as they stand to an endpoint."""
        return self.endpoints.get((workspace, endpoint), self.elsewhere)


def is_dropped(source: Source, reading: Reading, now_s: float) -> bool:
    """Silent for 15 s of uninterrupted reading."""
    return now_s - max(source.last_heard_s, reading.since_s) >= SILENCE_S


def _speaking(sources: Iterable[Source], reading: Reading, now_s: float) -> Iterator[Source]:
    """Gateways from which something for the endpoint may still come."""
    for source in sources:
        is_concerned = source.has_joined or source.watermark_s is not None
        if is_concerned and not source.has_left and not is_dropped(source, reading, now_s):
            yield source


def closed_until(sources: Iterable[Source], reading: Reading, now_s: float) -> int | None:
    """The end, unix s, of the last window that every gateway has passed; None where one promised nothing, or none is.

    It is not in the future, whatever a gateway's clock says.
    """
    passed = [source.watermark_s for source in _speaking(sources, reading, now_s)]
    if not passed or None in passed:
        return None
    return int(min(now_s, *(s for s in passed if s is not None)) // WINDOW_S * WINDOW_S)


def vouchers(sources: Iterable[Source], reading: Reading, now_s: float, until_s: int) -> int:
    """How many gateways are heard that have passed a time."""
    speaking = _speaking(sources, reading, now_s)
    return sum(source.watermark_s is not None and source.watermark_s >= until_s for source in speaking)


def is_complete(start_s: int, sources: Iterable[Source], reading: Reading, now_s: float) -> bool:
    """Whether the window from `start_s` can gain nothing any more, as far as its gateways promise."""
    end_s, is_known = start_s + WINDOW_S, False
    for source in sources:
        if source.has_left:
            is_known = is_known or source.watermark_s is not None
            continue
        sent_in_it = source.watermark_s is not None and source.watermark_s >= start_s
        if not sent_in_it and (not source.has_joined or is_dropped(source, reading, now_s)):
            continue
        is_known = True
        if source.watermark_s is None or source.watermark_s < end_s:
            return False
    return is_known
