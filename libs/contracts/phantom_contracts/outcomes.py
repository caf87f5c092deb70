"""What a reported outcome means in a model's terms."""

from __future__ import annotations

import math

from phantom_contracts.events.upstream import OutcomeReported, Scalar
from phantom_contracts.schema import ModelSchema


def reported_label(outcome: OutcomeReported, schema: ModelSchema | None) -> Scalar:
    """The label as it was sent: as `label`, or under the name that the schema's outcome has."""
    if outcome.label is None and schema is not None and schema.outcome is not None:
        return outcome.fields.get(schema.outcome.field)
    return outcome.label


def true_label(reported: Scalar, schema: ModelSchema | None, class_labels: tuple[str, ...]) -> str | None:
    """The reported label in the model's terms: a class label, or a number as text. None where it stands for neither."""
    if reported is None:
        return None
    text = ("true" if reported else "false") if isinstance(reported, bool) else str(reported)
    if not class_labels:
        return text if _is_number(text) else None
    if schema is not None and schema.outcome is not None and text in schema.outcome.mapping:
        text = schema.outcome.mapping[text]
    return text if text in class_labels else None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
