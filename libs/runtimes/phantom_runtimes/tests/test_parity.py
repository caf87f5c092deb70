"""Two runtimes for one model: shown to agree before they are used, and found out where they do not."""

import json

import numpy as np
import pytest

from phantom_contracts.schema import Feature, ModelSchema
from phantom_runtimes import load, parity, parity_rows, ubj, xgboost_runtime, xgboost_trees
from phantom_runtimes.model import regressed
from phantom_runtimes.tests.conftest import MIXED, NUMBERS, VALUE
from phantom_runtimes.xgboost_library import Booster
from phantom_runtimes.xgboost_objectives import REGRESSION, base_margins
from phantom_runtimes.xgboost_onnx import OnnxTrees

ALIKE = ["binary", "softprob", "softmax", "regression", "dart", "forest"]


@pytest.fixture(scope="module")
def parts(boosters, folder):
    """parts(name) → document, forest, native, a maker of the converted model from a forest."""

    def make(name):
        schema = boosters[name][0]
        document = ubj.loads((folder / f"{name}.ubj").read_bytes())
        objective = document["learner"]["objective"]["name"]
        native = xgboost_runtime.Native(
            Booster((folder / f"{name}.ubj").read_bytes(), threads=1), objective, schema
        )

        def converted(forest):
            trees = OnnxTrees(forest, base_margins(objective, forest.base_scores), threads=1)
            return xgboost_runtime.Converted(trees, objective, schema)

        return xgboost_trees.read(document), native, converted

    return make


def rows_of(forest, seed=3):
    return parity_rows.rows(forest, np.random.default_rng(seed))


def reached(forest, matrix):
    """The node where each row ends in each tree, walked in numpy alone."""
    at = np.tile(np.flatnonzero(forest.parent < 0), (len(matrix), 1))
    each = np.arange(len(matrix))[:, None]
    while (inner := forest.left[at] >= 0).any():
        value = matrix[each, forest.feature[at]]
        is_left = np.where(np.isnan(value), forest.missing_left[at], value < forest.values[at])
        at = np.where(inner, np.where(is_left, forest.left[at], forest.right[at]), at)
    return at


@pytest.mark.parametrize("name", ALIKE)
def test_the_converted_trees_are_shown_to_answer_alike(name, parts):
    forest, native, converted = parts(name)
    assert parity.prove(native, converted(forest), rows_of(forest), 40) >= 10_000


@pytest.mark.parametrize("name", ["binary", "softprob", "dart"])
def test_the_rows_reach_every_leaf_and_hit_thresholds_and_their_neighbours(name, parts):
    forest, _, _ = parts(name)
    matrix = np.concatenate(list(rows_of(forest)))
    assert len(matrix) >= 10_000
    assert not np.isinf(matrix).any()
    leaves = reached(forest, matrix)
    assert set(leaves.ravel().tolist()) == set(np.flatnonzero(forest.is_leaf).tolist())
    for feature in range(forest.features):
        cuts = forest.values[(forest.feature == feature) & ~forest.is_leaf]
        came = matrix[:, feature]
        assert np.isin(cuts, came).all()
        assert np.isin(np.nextafter(cuts, np.float32(-np.inf)), came).all()
        assert np.isnan(came).any()


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("sign", [1, -1])
def test_one_leaf_that_differs_by_two_hundred_thousandths_of_probability_is_found(name, sign, parts):
    forest, native, converted = parts(name)
    leaves = np.flatnonzero(forest.is_leaf)
    for leaf in np.random.default_rng(8).choice(leaves, 6, replace=False):
        values = forest.values.copy()
        if forest.base_scores.shape == (1,) and native.schema.task == "regression":
            values[leaf] += sign * 1e-3
        else:
            values[leaf] += sign * 8e-5  # where a probability is steepest, a quarter of it
        changed = converted(xgboost_trees.Forest(**{**fields(forest), "values": values}))
        with pytest.raises(parity.DisagreementError):
            parity.prove(native, changed, rows_of(forest), 40)


def test_a_threshold_moved_to_its_neighbour_is_found(parts):
    forest, native, converted = parts("binary")
    for node in np.flatnonzero(~forest.is_leaf)[:12]:
        values = forest.values.copy()
        values[node] = np.nextafter(values[node], np.float32(np.inf))
        changed = converted(xgboost_trees.Forest(**{**fields(forest), "values": values}))
        with pytest.raises(parity.DisagreementError, match="differ"):
            parity.prove(native, changed, rows_of(forest), 40)


def test_a_missing_value_sent_the_other_way_is_found(parts):
    forest, native, converted = parts("binary")
    ways = forest.missing_left.copy()
    node = np.flatnonzero(~forest.is_leaf)[5]
    ways[node] = not ways[node]
    changed = converted(xgboost_trees.Forest(**{**fields(forest), "missing_left": ways}))
    with pytest.raises(parity.DisagreementError):
        parity.prove(native, changed, rows_of(forest), 40)


@pytest.mark.parametrize("objective", REGRESSION)
def test_every_regression_objective_is_converted_alike(objective, data, tmp_path):
    import xgboost as xgb

    matrix, target = data
    label = 1 / (1 + np.exp(-target))
    rows = xgb.DMatrix(matrix, label, feature_names=[feature.name for feature in VALUE.features])
    if objective.startswith("rank:"):
        rows = xgb.DMatrix(matrix, (target > 0) * 1, qid=np.arange(len(matrix)) // 10)
    booster = xgb.train({"objective": objective, "max_depth": 3, "nthread": 1}, rows, 6)
    booster.feature_names = None
    booster.save_model(tmp_path / "m.ubj")
    model = load(tmp_path / "m.ubj", "xgboost", VALUE, runtime="auto")
    assert model.choice.rows > 0, model.choice
    few = matrix[:3].copy()
    few[1, 2] = np.nan
    found = model.predict(few)
    assert found.runtime == "onnxruntime"
    np.testing.assert_allclose(found.values, booster.inplace_predict(few), rtol=2e-5)


def test_few_rows_are_answered_by_onnxruntime_and_many_by_xgboost(boosters, folder, data):
    model = load(folder / "binary.ubj", "xgboost", NUMBERS, runtime="auto")
    most = model.choice.rows
    assert 0 < most <= parity.MOST_ROWS
    assert model.choice.reason == f"sooner up to {most} rows, and alike on 10000"
    few, many = data[0][:most], data[0][: most + 1]
    assert (model.predict(few).runtime, model.predict(many).runtime) == ("onnxruntime", "")
    native = load(folder / "binary.ubj", "xgboost", NUMBERS)
    assert (model.predict(few).labels == native.predict(few).labels).all()
    np.testing.assert_allclose(model.predict(few).probabilities, native.predict(few).probabilities, atol=1e-5)


def test_a_model_pinned_to_its_own_runtime_is_left_alone(boosters, folder, data):
    model = load(folder / "binary.ubj", "xgboost", NUMBERS, runtime="native")
    assert (model.choice.rows, model.choice.reason) == (0, "pinned to XGBoost")
    assert model.predict(data[0][:1]).runtime == ""


def test_splits_by_category_are_left_to_xgboost(boosters, folder):
    model = load(folder / "category.ubj", "xgboost", MIXED, runtime="auto")
    assert (model.choice.rows, model.choice.reason) == (0, "the model splits by category")
    assert model.predict(np.float32([[1, 2]])).runtime == ""


def test_a_model_without_trees_is_left_to_xgboost(data, tmp_path):
    import xgboost as xgb

    booster = xgb.train({"objective": "reg:squarederror"}, xgb.DMatrix(data[0], data[1]), 0)
    booster.save_model(tmp_path / "m.ubj")
    model = load(tmp_path / "m.ubj", "xgboost", VALUE, runtime="auto")
    assert (model.choice.rows, model.choice.reason) == (0, "the model has no trees")


def test_a_conversion_that_disagrees_is_not_used_and_says_why(boosters, folder, monkeypatch):
    def moved(objective, base_scores):
        return base_margins(objective, base_scores) + np.float32(1e-3)

    monkeypatch.setattr(xgboost_runtime, "base_margins", moved)
    model = load(folder / "binary.ubj", "xgboost", NUMBERS, runtime="auto")
    assert model.choice.rows == 0
    assert (
        model.choice.reason.startswith("probabilities differ by ") or "labels differ" in model.choice.reason
    )
    assert model.predict(np.zeros((1, 6), dtype=np.float32)).runtime == ""


def test_a_conversion_that_fails_is_not_used_and_says_why(boosters, folder, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no such operator\nat length")

    monkeypatch.setattr(xgboost_runtime, "OnnxTrees", fails)
    model = load(folder / "binary.ubj", "xgboost", NUMBERS, runtime="auto")
    assert model.choice.reason == "not converted: no such operator"
    assert model.predict(np.zeros((1, 6), dtype=np.float32)).labels is not None


def test_pruned_nodes_are_left_out(data, tmp_path):
    import xgboost as xgb

    rows = xgb.DMatrix(data[0], data[1])
    booster = xgb.train(
        {"objective": "reg:squarederror", "tree_method": "exact", "gamma": 5, "max_depth": 6}, rows, 5
    )
    booster.save_model(tmp_path / "m.json")
    document = json.loads((tmp_path / "m.json").read_text())
    forest = xgboost_trees.read(document)
    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    assert len(forest.tree) == sum(
        int(t["tree_param"]["num_nodes"]) - int(t["tree_param"]["num_deleted"]) for t in trees
    )
    assert load(tmp_path / "m.json", "xgboost", VALUE, runtime="auto").choice.rows > 0


def test_a_wide_model_is_proved_on_small_chunks(data, tmp_path):
    import xgboost as xgb

    wide = np.random.default_rng(1).normal(size=(200, 2_000)).astype(np.float32)
    rows = xgb.DMatrix(wide, (wide[:, 7] > 0) * 1)
    booster = xgb.train({"objective": "binary:logistic", "max_depth": 4, "nthread": 1}, rows, 5)
    booster.save_model(tmp_path / "m.ubj")
    forest = xgboost_trees.read(ubj.loads((tmp_path / "m.ubj").read_bytes()))
    assert (
        max(chunk.size for _, chunk in zip(range(3), rows_of(forest), strict=False))
        <= parity_rows.CHUNK_VALUES
    )
    features = tuple(Feature(name=f"f{n}") for n in range(2_000))
    model = load(
        tmp_path / "m.ubj", "xgboost", NUMBERS.model_copy(update={"features": features}), runtime="auto"
    )
    assert model.choice.rows > 0 or "took longer than" in model.choice.reason


def test_a_very_large_model_is_left_to_xgboost(boosters, folder, monkeypatch):
    monkeypatch.setattr(xgboost_trees, "MOST_NODES", 100)
    model = load(folder / "binary.ubj", "xgboost", NUMBERS, runtime="auto")
    assert model.choice.rows == 0
    assert model.choice.reason.endswith("nodes, more than 100")


def test_a_proof_that_takes_too_long_proves_nothing(boosters, folder, monkeypatch):
    monkeypatch.setattr(parity, "BUDGET_S", 0.0)
    model = load(folder / "binary.ubj", "xgboost", NUMBERS, runtime="auto")
    assert (model.choice.rows, model.choice.reason) == (0, "not proved: 1000 rows took longer than 0 s")


class Slow:
    """A runtime that costs so many seconds to begin and so many a row, told by a clock of its own."""

    def __init__(self, clock, begin, row):
        self.clock, self.begin, self.row = clock, begin, row

    def predict(self, matrix):
        self.clock[0] += self.begin + self.row * len(matrix)
        return regressed(matrix[:, 0])


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ((100, 1), (10, 4), 30),
        ((100, 1), (10, 1), parity.MOST_ROWS),
        ((10, 1), (10, 2), 0),
        ((10, 3), (13, 1), 0),  # not sooner for one row: never
    ],
)
def test_the_bound_lies_where_the_costs_cross(first, second, wanted, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(parity.time, "perf_counter", lambda: clock[0])
    rows = np.zeros((1_000, 2), dtype=np.float32)
    assert parity.sooner_up_to(Slow(clock, *first), Slow(clock, *second), [rows]) == wanted


def test_features_without_a_split_and_a_single_leaf_are_no_trouble(tmp_path):
    import xgboost as xgb

    schema = ModelSchema(features=tuple(Feature(name=f"f{n}") for n in range(40)), task="regression")
    rows = xgb.DMatrix(np.ones((50, 40)), np.arange(50))
    xgb.train({"objective": "reg:squarederror", "nthread": 1}, rows, 3).save_model(tmp_path / "m.ubj")
    model = load(tmp_path / "m.ubj", "xgboost", schema, runtime="auto")
    assert model.choice.rows > 0, model.choice


def fields(forest):
    return {name: getattr(forest, name) for name in forest.__slots__}
