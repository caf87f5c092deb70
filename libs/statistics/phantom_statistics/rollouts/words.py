"""Figures in a sentence."""

from __future__ import annotations

import math


def percent(share: float) -> str:
    """A share as a percentage of three digits: `1.25 %`."""
    return f"{100 * share:.3g} %"


def times(ratio: float) -> str:
    """A ratio: `1.9 times`, `without limit`."""
    return "any number of times" if math.isinf(ratio) else f"{ratio:.3g} times"
