"""What the experiment service writes: running experiments per endpoint (compacted)."""

from __future__ import annotations

from typing import ClassVar

from phantom_contracts.events.base import Record, Value
from phantom_contracts.events.deployer import BucketRange


class Gate(Value):
    """A unit is in the experiment iff bucket(salt, unit) is in [start, end)."""

    salt: str
    start: int = 0
    end: int = 10_000


class RunningExperiment(Value):
    """One experiment. Buckets outside `allocations` are control."""

    id: str
    version: int
    gate: Gate
    salt: str
    hash_field: str
    # unit → arm, at most 1,000; decided before the gate, as `override`.
    forced: dict[str, str] = {}
    allocations: tuple[BucketRange, ...] = ()
    # arm → revision id, `control` among them.
    arms: dict[str, str]


class ExperimentsRecord(Record):
    """The experiments of one endpoint: phantom.experiments.v1, key `<workspace>/<endpoint>`."""

    type: ClassVar[str] = "phantom.experiment.ExperimentsChanged.v1"
    endpoint: str
    experiments: tuple[RunningExperiment, ...] = ()
