"""Small real models of three frameworks. Their label follows `amount` (0 to 1): below about a half it is `low`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

FEATURES = ["amount", "hour"]
SCHEMA: dict[str, Any] = {
    "features": [{"name": name} for name in FEATURES],
    "class_labels": ["low", "high"],
    "outcome": {"field": "was_high", "mapping": {"true": "high", "false": "low"}},
}
# A category beside a number, and a number that must be there.
MIXED_SCHEMA: dict[str, Any] = {
    "features": [
        {"name": "amount", "allows_missing": False},
        {"name": "channel", "type": "string", "categories": ["web", "shop"], "required": False},
    ],
    "class_labels": ["low", "high"],
}


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """([400, 2] features, [400] labels)"""
    random = np.random.default_rng(seed)
    features = random.uniform(size=(400, 2)).astype(np.float32)
    return features, (features[:, 0] > 0.5).astype(int)


def booster(seed: int) -> xgboost.Booster:
    """A classifier whose answers differ from another seed's."""
    features, labels = data(seed)
    return xgboost.train(
        {"objective": "binary:logistic", "max_depth": 2, "seed": seed, "nthread": 1, "eta": 0.3 + seed / 100},
        xgboost.DMatrix(features, label=labels, feature_names=FEATURES),
        num_boost_round=5,
    )


def xgboost_file(path: Path, seed: int = 0) -> Path:
    """`.json` or `.ubj`, as the path ends."""
    booster(seed).save_model(path)
    return path


def mixed_file(path: Path) -> Path:
    """A booster with a category."""
    features, labels = data(0)
    features[:, 1] = features[:, 1] > 0.5
    matrix = xgboost.DMatrix(
        features,
        label=labels,
        feature_names=["amount", "channel"],
        feature_types=["q", "c"],
        enable_categorical=True,
    )
    parameters = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
    xgboost.train(parameters, matrix, num_boost_round=5).save_model(path)
    return path


def onnx_file(path: Path, seed: int = 0) -> Path:
    """A logistic regression."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    features, labels = data(seed)
    model = LogisticRegression(C=100).fit(features, labels)
    path.write_bytes(to_onnx(model, features[:1], options={"zipmap": False}).SerializeToString())
    return path


def skops_file(path: Path, seed: int = 0) -> Path:
    """A small forest."""
    import skops.io
    from sklearn.ensemble import RandomForestClassifier

    features, labels = data(seed)
    skops.io.dump(RandomForestClassifier(5, max_depth=3, random_state=seed).fit(features, labels), path)
    return path


def pickle_file(path: Path) -> Path:
    """What the guide registers: bytes that no service may unpickle."""
    import pickle

    from sklearn.linear_model import LogisticRegression

    features, labels = data(len(path.name))
    path.write_bytes(pickle.dumps(LogisticRegression(C=100).fit(features, labels)))
    return path


@dataclass(frozen=True)
class Kind:
    """A framework: how its file is made and what the registry finds in it."""

    ending: str
    write: Callable[[Path], Path]
    framework: str


KINDS = (
    Kind("json", xgboost_file, "xgboost"),
    Kind("ubj", xgboost_file, "xgboost"),
    Kind("onnx", onnx_file, "onnx"),
    Kind("skops", skops_file, "scikit-learn"),
)
