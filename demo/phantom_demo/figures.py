"""The monitor's figures of each revision, whatever arms it answered under."""

from __future__ import annotations

from dataclasses import replace

from phantom_ml_studio.values import RevisionSummary


def by_revision(summaries: list[RevisionSummary]) -> list[RevisionSummary]:
    """One a revision: the arm under which it answered most (completing a rollout renames its arm)."""
    best: dict[str, RevisionSummary] = {}
    for summary in summaries:
        known = best.get(summary.revision)
        best[summary.revision] = summary if known is None else _joined(known, summary)
    return [best[revision] for revision in sorted(best)]


def _joined(a: RevisionSummary, b: RevisionSummary) -> RevisionSummary:
    """Sums of the counts; of figures that do not add up, those of the larger part."""
    large = a if a.requests >= b.requests else b
    labelled = a.labelled + b.labelled

    def mean(name: str) -> float | None:
        parts = [(getattr(each, name), each.labelled) for each in (a, b) if each.labelled]
        return sum(value * count for value, count in parts) / labelled if labelled else None

    return replace(
        large,
        requests=a.requests + b.requests,
        rows=a.rows + b.rows,
        failed_attempts=a.failed_attempts + b.failed_attempts,
        labelled=labelled,
        accuracy=mean("accuracy"),
        log_loss=mean("log_loss"),
    )
