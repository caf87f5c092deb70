"""A shadow revision's rows beside the answers that callers got."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_monitor.domain.counts import Agreement, WindowCounts, WindowKey, window_start
from phantom_monitor.domain.labels import Predicted

# Values of a regression that lie this close to each other, relative, are the same.
SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Pair:
    """A row as the shadow answered it, and as the caller got it. Answer times in unix µs."""

    shadow: Predicted
    shadow_us: int
    answer: Predicted
    answer_us: int

    @property
    def window(self) -> WindowKey:
        """The shadow's window in which both are known: whole once the gateways have passed its end."""
        return self.shadow.window._replace(start_s=window_start(max(self.shadow_us, self.answer_us)))


def agreement(pair: Pair) -> WindowCounts:
    """What a pair adds to its window."""
    shadow, answer = pair.shadow, pair.answer
    if shadow.value is not None and answer.value is not None:
        difference = shadow.value - answer.value
        is_same = abs(difference) <= SAME * max(abs(shadow.value), abs(answer.value))
    else:
        difference = (shadow.score or 0.0) - (answer.score or 0.0)
        is_same = shadow.label == answer.label
    return WindowCounts(
        agreement=Agreement(1, int(is_same), difference, difference * difference, abs(difference))
    )
