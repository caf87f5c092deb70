"""What to do with a record that failed, and when to try again. Pure: time is handed in."""

from __future__ import annotations

from dataclasses import dataclass, field

from phantom_platform.errors import PhantomError, Unavailable

Partition = tuple[str, int]


@dataclass(frozen=True)
class RetryPolicy:
    """Unknown exceptions get one attempt more than there are delays, all within half a minute. Temporary
    failures are tried for ever, after the error's own delay, doubled each time up to `longest_s`."""

    delays_s: tuple[float, ...] = (0.2, 1.0, 4.0, 10.0)
    first_s: float = 0.1
    longest_s: float = 30.0


@dataclass
class _Trouble:
    offset: int
    unknown: int = 0
    temporary: int = 0
    resume_at: float = 0.0


@dataclass
class Retries:
    """Which partitions wait, at which record, and until when."""

    policy: RetryPolicy
    _troubles: dict[Partition, _Trouble] = field(default_factory=dict)

    def is_dead(self, partition: Partition, offset: int, error: Exception, now: float) -> bool:
        """Counts a failure. True: give the record up. False: the partition waits until `resume_at`."""
        if isinstance(error, PhantomError) and not isinstance(error, Unavailable):
            return True
        trouble = self._troubles.get(partition)
        if trouble is None or trouble.offset != offset:
            trouble = self._troubles[partition] = _Trouble(offset)
        if isinstance(error, Unavailable):
            trouble.resume_at = now + self._temporary_delay(error, trouble.temporary)
            trouble.temporary += 1
            return False
        trouble.unknown += 1
        if trouble.unknown > len(self.policy.delays_s):
            return True
        trouble.resume_at = now + self.policy.delays_s[trouble.unknown - 1]
        return False

    def waiting(self) -> dict[Partition, float]:
        """When each waiting partition is due."""
        return {partition: each.resume_at for partition, each in self._troubles.items() if each.resume_at > 0}

    def troubled(self) -> frozenset[Partition]:
        """Those that have not come past their troubles yet, waiting or not."""
        return frozenset(self._troubles)

    def resumed(self, partition: Partition) -> None:
        """The partition is read again; what it has suffered so far is remembered."""
        if partition in self._troubles:
            self._troubles[partition].resume_at = 0.0

    def passed(self, partition: Partition, next_offset: int) -> None:
        """The partition has come past its troubles."""
        trouble = self._troubles.get(partition)
        if trouble is not None and next_offset > trouble.offset:
            del self._troubles[partition]

    def forget(self) -> None:
        """Partitions were taken away or given anew."""
        self._troubles.clear()

    def _temporary_delay(self, error: Unavailable, before: int) -> float:
        base = max(error.retry_after_s, self.policy.first_s)
        return min(base * 2.0 ** min(before, 20), self.policy.longest_s)
