"""Units come in groups: how many units count, and how much wider their spread makes a variance.

A unit (a user, say) sends many calls that share its ways, so calls are not independent. Units are: a unit belongs
to one of 64 groups for ever, whichever revision it gets, so the groups' sums are independent and show the spread.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phantom_statistics.groups import GROUPS

Floats = NDArray[np.float64]

LEAST_UNITS = 50.0  # effective units a side; below, nothing but a hold


def effective_units(weights: Floats) -> float:
    """How many units of equal weight would spread over the groups as unevenly as `weights` [64] do.

    With n units, weights v of sum 1 and groups drawn at random, E[sum of squared group shares] is
    h + (1 - h)/64 for h = sum v²; 1/h is the effective number (Kish 1965). Relative standard error .18.
    """
    total = float(weights.sum())
    if total <= 0:
        return 0.0
    shares = weights / total
    spread = (GROUPS * float(shares @ shares) - 1) / (GROUPS - 1)
    return total if spread * total <= 1 else 1 / spread


def design_effect(residuals: Floats, independent: float) -> float:
    """The variance of a sum over groups, in multiples of what it would be if calls were independent; at least 1.

    `residuals` [64] are each group's influence on the sum, added up over all steps before they are squared here
    (units stay in their group through a ramp, so adding the steps' variances would be too little).
    """
    if independent <= 0:
        return 1.0
    return max(1.0, GROUPS / (GROUPS - 1) * float(residuals @ residuals) / independent)
