"""What the registry writes; key `<workspace>/<model>` (datasets: `<workspace>/<dataset>`)."""

from __future__ import annotations

from typing import ClassVar

from phantom_contracts.events.base import Event


class ModelRegistered(Event):
    type: ClassVar[str] = "phantom.registry.ModelRegistered.v1"
    model_id: str
    actor: str
    tags: tuple[str, ...] = ()


class VersionCreated(Event):
    type: ClassVar[str] = "phantom.registry.VersionCreated.v1"
    model_id: str
    model_version: str
    digest: str
    framework: str
    stage: str
    actor: str
    # ModelSchema as JSON, empty where the version has none.
    model_schema: str = ""


class ModelTagged(Event):
    type: ClassVar[str] = "phantom.registry.ModelTagged.v1"
    model_id: str
    actor: str
    tags: tuple[str, ...] = ()


class PromotionRequested(Event):
    type: ClassVar[str] = "phantom.registry.PromotionRequested.v1"
    model_id: str
    model_version: str
    promotion_id: str
    from_stage: str
    to_stage: str
    reviewer: str
    actor: str


class PromotionDecided(Event):
    """`decision` is granted, rejected or expired."""

    type: ClassVar[str] = "phantom.registry.PromotionDecided.v1"
    model_id: str
    model_version: str
    promotion_id: str
    decision: str
    actor: str
    comment: str = ""


class StageChanged(Event):
    type: ClassVar[str] = "phantom.registry.StageChanged.v1"
    model_id: str
    model_version: str
    from_stage: str
    to_stage: str
    digest: str
    actor: str


class LineageCreated(Event):
    type: ClassVar[str] = "phantom.registry.LineageCreated.v1"
    model_id: str
    model_version: str
    actor: str


class DatasetRegistered(Event):
    type: ClassVar[str] = "phantom.registry.DatasetRegistered.v1"
    dataset: str
    dataset_version: str
    digest: str
    actor: str
