"""Verdicts on a revision that is being rolled out: a pure function of sums that merge by addition.

Whoever has the sums of both revisions (`evidence`) and the criteria (`criteria`) gets the same verdict (`judge`),
at any time and as often as they like: everything that can act is safe to look at continuously.
"""

from phantom_statistics.rollouts.criteria import Criteria
from phantom_statistics.rollouts.evidence import Pair, StepEvidence, Sums
from phantom_statistics.rollouts.judge import judge, measurements, requests_to_detect_doubling
from phantom_statistics.rollouts.verdict import Finding, Verdict

__all__ = [
    "Criteria",
    "Finding",
    "Pair",
    "StepEvidence",
    "Sums",
    "Verdict",
    "judge",
    "measurements",
    "requests_to_detect_doubling",
]
