"""Real models of every kind, trained once a session on made-up data."""

import json
from pathlib import Path

import numpy as np
import pytest

from phantom_contracts.schema import Feature, ModelSchema

NUMBERS = ModelSchema(
    features=tuple(Feature(name=f"f{n}") for n in range(6)),
    class_labels=("on_time", "late"),
    positive_label="late",
)
THREE = ModelSchema(features=NUMBERS.features, class_labels=("low", "middle", "high"))
VALUE = ModelSchema(features=NUMBERS.features, task="regression")
CARRIERS = ("UA", "AA", "B6", "DL")
MIXED = ModelSchema(
    features=(Feature(name="distance"), Feature(name="carrier", type="string", categories=CARRIERS)),
    class_labels=("on_time", "late"),
)


@pytest.fixture(scope="session")
def data():
    rng = np.random.default_rng(11)
    matrix = rng.normal(size=(1_500, 6)).astype(np.float32)
    return matrix, matrix[:, 0] + matrix[:, 1] * matrix[:, 2]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def boosters(data, folder):
    """name → (schema, booster); files `<name>.json` and `<name>.ubj` lie in the folder."""
    import pandas as pd
    import xgboost as xgb

    matrix, target = data
    names = [feature.name for feature in NUMBERS.features]
    three = np.digitize(target, [-0.5, 0.5])
    wanted = {
        "binary": (NUMBERS, {"objective": "binary:logistic"}, (target > 0).astype(int)),
        "softprob": (THREE, {"objective": "multi:softprob", "num_class": 3}, three),
        "softmax": (THREE, {"objective": "multi:softmax", "num_class": 3}, three),
        "regression": (VALUE, {"objective": "reg:squarederror"}, target),
        "dart": (
            NUMBERS,
            {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.2},
            (target > 0) * 1,
        ),
        "forest": (
            NUMBERS,
            {"objective": "binary:logistic", "num_parallel_tree": 3},
            (target > 0).astype(int),
        ),
    }
    made = {}
    for name, (schema, parameters, label) in wanted.items():
        rows = xgb.DMatrix(matrix, label, feature_names=names)
        made[name] = (schema, xgb.train({**parameters, "max_depth": 4, "nthread": 1}, rows, 12))
    codes = np.random.default_rng(5).integers(0, len(CARRIERS), len(matrix))
    frame = pd.DataFrame({"distance": matrix[:, 0], "carrier": pd.Categorical.from_codes(codes, CARRIERS)})
    rows = xgb.DMatrix(frame, (codes % 2 == 0) ^ (matrix[:, 0] > 1), enable_categorical=True)
    made["category"] = (
        MIXED,
        xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, rows, 8),
    )
    for name, (_, booster) in made.items():
        booster.save_model(folder / f"{name}.json")
        booster.save_model(folder / f"{name}.ubj")
    return made


@pytest.fixture(scope="session")
def onnx_binary(boosters, folder) -> Path:
    import onnxmltools
    import xgboost as xgb
    from onnxmltools.convert.common.data_types import FloatTensorType

    renamed = xgb.Booster(model_file=folder / "binary.ubj")
    renamed.feature_names = None
    model = onnxmltools.convert_xgboost(renamed, initial_types=[("input", FloatTensorType([None, 6]))])
    path = folder / "binary.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def edited(boosters, folder, tmp_path_factory):
    """edited(name, change) → path of the JSON model after change(document, trees)."""
    out = tmp_path_factory.mktemp("edited")
    count = iter(range(10_000))

    def edit(name, change) -> Path:
        document = json.loads((folder / f"{name}.json").read_text())
        booster = document["learner"]["gradient_booster"]
        model = booster["model"] if "model" in booster else booster["gbtree"]["model"]
        change(document, model["trees"])
        path = out / f"{next(count)}.json"
        path.write_text(json.dumps(document))
        return path

    return edit
