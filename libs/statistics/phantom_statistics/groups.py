"""Unit groups: 64 groups of units for cluster-robust variances, the same on every machine and for ever."""

from collections.abc import Iterable

import numpy as np
import xxhash

GROUPS = 64
_PREFIX = b"phantom-groups:"


def unit_group(unit: str) -> int:
    """The unit's group, 0 to 63; independent of every rollout's and experiment's salt."""
    return xxhash.xxh3_64_intdigest(_PREFIX + unit.encode()) % GROUPS


def unit_groups(units: Iterable[str]) -> np.ndarray:
    """The groups of many units, int64 [units]."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(_PREFIX + unit.encode()) % GROUPS for unit in units), dtype=np.int64)
