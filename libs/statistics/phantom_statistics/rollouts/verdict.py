"""What the evidence says: one finding a criterion, and the verdict they make together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Word = Literal["pass", "fail", "not_enough_data", "not_enough_units", "not_comparable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One criterion's judgement. `lower` and `upper` are always-valid ends of `estimate`, held against `limit`."""

    criterion: str
    verdict: Word
    candidate: float | None = None
    stable: float | None = None
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    limit: float | None = None
    p_value: float | None = None
    count: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings together; `fired` names the criterion that failed, empty where none did."""

    verdict: Word
    findings: tuple[Finding, ...]
    fired: str = ""

    def finding(self, criterion: str) -> Finding | None:
        """The finding of a criterion; None where it is not judged."""
        return next((each for each in self.findings if each.criterion == criterion), None)
