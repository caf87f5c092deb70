"""What applications and upstream systems publish."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import AwareDatetime, Field, model_validator

from phantom_contracts.events.base import Event

Scalar = bool | int | float | str | None


class OutcomeReported(Event):
    """What really happened to a prediction: phantom.outcomes.v1; key = `prediction_id` or `request_id` as given.

    `label` is in the application's own terms; the model schema's outcome mapping says which class it stands for.
    """

    type: ClassVar[str] = "phantom.upstream.OutcomeReported.v1"
    # An endpoint or one of its aliases.
    endpoint: str
    prediction_id: str | None = None
    request_id: str | None = None
    row: int = Field(default=0, ge=0)
    event_time: AwareDatetime
    label: Scalar = None
    fields: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_one_id(self) -> OutcomeReported:
        if (self.prediction_id is None) == (self.request_id is None):
            raise ValueError("give exactly one of prediction_id and request_id")
        return self

    @property
    def key(self) -> str:
        """The Kafka key."""
        return self.prediction_id or self.request_id or ""


class DataArrived(Event):
    """New training data: phantom.data-arrivals.v1; key = dataset."""

    type: ClassVar[str] = "phantom.upstream.DataArrived.v1"
    dataset: str
    uri: str
    rows: int = Field(ge=0)
    digest: str
    event_time: datetime
