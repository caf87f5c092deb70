import json

import numpy as np
import pytest

from phantom_runtimes import Invalid, load, ubj
from phantom_runtimes.tests.conftest import CARRIERS, MIXED, NUMBERS, THREE, VALUE


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("name", ["binary", "softprob", "softmax", "regression", "dart", "forest"])
def test_predictions_are_those_of_the_library(name, suffix, boosters, data, folder):
    import xgboost as xgb

    schema, booster = boosters[name]
    matrix = data[0].copy()
    matrix[5, 2] = np.nan
    found = load(folder / f"{name}.{suffix}", "xgboost", schema).predict(matrix)
    if name == "softmax":
        assert (found.labels == booster.inplace_predict(matrix).astype(int)).all()
        rows = xgb.DMatrix(matrix, feature_names=[feature.name for feature in schema.features])
        margins = booster.predict(rows, output_margin=True)
        wanted = np.exp(margins) / np.exp(margins).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.probabilities, wanted, atol=1e-6)
        return
    wanted = booster.inplace_predict(matrix)
    if name == "regression":
        assert found.labels is found.probabilities is None
        assert (found.values == wanted).all()
        assert (found.scores == wanted).all()
    elif name == "softprob":
        assert (found.probabilities == wanted).all()
        assert (found.labels == wanted.argmax(axis=1)).all()
        assert (found.scores == wanted[:, 2]).all()  # the last label, as none is named
    else:
        assert (found.scores == wanted).all()
        assert (found.labels == (wanted >= 0.5)).all()
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_score_is_the_positive_labels_probability_from_the_threshold_on(boosters, data, folder):
    first = NUMBERS.model_copy(update={"positive_label": "on_time", "threshold": 0.9})
    found = load(folder / "binary.ubj", "xgboost", first).predict(data[0])
    late = boosters["binary"][1].inplace_predict(data[0])
    np.testing.assert_allclose(found.scores, 1 - late, atol=1e-7)
    assert (found.labels == np.where(found.scores >= 0.9, 0, 1)).all()


def test_categories_are_taken_in_the_schemas_order(boosters, data, folder):
    import pandas as pd
    import xgboost as xgb

    codes = np.tile(np.arange(4), 10)
    frame = pd.DataFrame({"distance": data[0][:40, 0], "carrier": pd.Categorical.from_codes(codes, CARRIERS)})
    matrix = np.column_stack([data[0][:40, 0], codes]).astype(np.float32)
    found = load(folder / "category.ubj", "xgboost", MIXED).predict(matrix)
    wanted = boosters["category"][1].predict(xgb.DMatrix(frame, enable_categorical=True))
    assert (found.scores == wanted).all()
    assert len(set(found.scores.tolist())) > 2


def test_another_order_of_categories_is_refused_by_name(boosters, folder):
    features = (MIXED.features[0], MIXED.features[1].model_copy(update={"categories": CARRIERS[::-1]}))
    with pytest.raises(Invalid, match=r"knows the categories .* of 'carrier'") as caught:
        load(folder / "category.ubj", "xgboost", MIXED.model_copy(update={"features": features}))
    assert caught.value.code == "schema_mismatch"


def test_a_matrix_of_doubles_or_another_memory_order_predicts_the_same(boosters, data, folder):
    model = load(folder / "binary.ubj", "xgboost", NUMBERS)
    plain = model.predict(data[0]).scores
    assert (model.predict(data[0].astype(np.float64)).scores == plain).all()
    assert (model.predict(np.asfortranarray(data[0])).scores == plain).all()
    assert (model.predict(data[0][::2]).scores == plain[::2]).all()


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        (VALUE, "says regression with 0 class labels"),
        (THREE, "says classification with 3 class labels"),
        (NUMBERS.model_copy(update={"features": NUMBERS.features[:5]}), "it has 6, not 5"),
        (NUMBERS.model_copy(update={"features": NUMBERS.features[::-1]}), "1 is 'f0', not 'f5'"),
    ],
)
def test_a_schema_that_is_not_the_models_is_refused(schema, what, boosters, folder):
    with pytest.raises(Invalid, match=what) as caught:
        load(folder / "binary.json", "xgboost", schema)
    assert caught.value.code == "schema_mismatch"


def _circle(document, trees):
    inner = next(n for n in range(1, 20) if trees[2]["left_children"][n] != -1)
    trees[2]["left_children"][inner] = 0


def _knot(document, trees):
    trees[1]["right_children"][0] = trees[1]["left_children"][0]


BROKEN = {
    "child beyond the tree": lambda d, t: t[3]["left_children"].__setitem__(0, 10_000),
    "child before the tree": lambda d, t: t[3]["left_children"].__setitem__(0, -7),
    "circle": _circle,
    "two parents": _knot,
    "feature": lambda d, t: t[0]["split_indices"].__setitem__(0, 6),
    "negative feature": lambda d, t: t[0]["split_indices"].__setitem__(0, -1),
    "infinite leaf": lambda d, t: t[0]["split_conditions"].__setitem__(-1, 1e999),
    "one child": lambda d, t: t[0]["right_children"].__setitem__(0, -1),
    "parent": lambda d, t: t[0]["parents"].__setitem__(1, 5),
    "short array": lambda d, t: t[0]["split_conditions"].pop(),
    "too few nodes": lambda d, t: t[0]["tree_param"].__setitem__("num_nodes", "3"),
    "no nodes": lambda d, t: t[0]["tree_param"].__setitem__("num_nodes", "0"),
    "underscored count": lambda d, t: t[0]["tree_param"].__setitem__("num_nodes", "2_9"),
    "same id twice": lambda d, t: t[1].__setitem__("id", 0),
    "lost tree": lambda d, t: t.pop(),
    "texts for numbers": lambda d, t: t[0].__setitem__("split_conditions", ["1"] * len(t[0]["parents"])),
    "category split without categories": lambda d, t: t[0]["split_type"].__setitem__(0, 1),
    "strange split type": lambda d, t: t[0]["split_type"].__setitem__(0, 2),
    "tree of another class": lambda d, t: d["learner"]["gradient_booster"]["model"]["tree_info"].__setitem__(
        0, 3
    ),
    "rounds": lambda d, t: d["learner"]["gradient_booster"]["model"].__setitem__("iteration_indptr", [0, 99]),
    "base score": lambda d, t: d["learner"]["learner_model_param"].__setitem__("base_score", "[nan]"),
    "classes": lambda d, t: d["learner"]["learner_model_param"].__setitem__("num_class", "2000000000"),
    "no objective": lambda d, t: d["learner"].pop("objective"),
    "no learner": lambda d, t: d.pop("learner"),
    "no trees": lambda d, t: d["learner"]["gradient_booster"]["model"].pop("trees"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_crafted_model_is_refused_before_the_library_sees_it(damage, edited):
    with pytest.raises(Invalid) as caught:
        load(edited("binary", BROKEN[damage]), "xgboost", NUMBERS)
    assert caught.value.code == "corrupt_model"


def test_the_refusal_names_tree_and_node(edited):
    with pytest.raises(Invalid, match=r"tree 3, node 0: a child is not one of \d+ nodes") as caught:
        load(edited("binary", BROKEN["child beyond the tree"]), "xgboost", NUMBERS)
    assert caught.value.fields == {"tree": 3, "node": 0}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda d, t: d["learner"]["objective"].__setitem__("name", "binary:hinge"),
            "objective 'binary:hinge'",
        ),
        (lambda d, t: d["learner"]["gradient_booster"].__setitem__("name", "gblinear"), "booster 'gblinear'"),
        (lambda d, t: d["learner"]["learner_model_param"].__setitem__("num_target", "2"), "several targets"),
        (lambda d, t: t[0]["tree_param"].__setitem__("size_leaf_vector", "3"), "vectors in its leaves"),
    ],
)
def test_what_is_not_supported_is_said(change, what, edited):
    with pytest.raises(Invalid, match=what) as caught:
        load(edited("binary", change), "xgboost", NUMBERS)
    assert caught.value.code == "unsupported_model"


def test_a_category_outside_the_list_is_refused_with_tree_and_node(edited):
    def change(document, trees):
        tree = next(tree for tree in trees if tree["categories"])
        tree["categories"][0] = 4

    with pytest.raises(Invalid, match=r"tree \d+, node \d+: it splits on a category"):
        load(edited("category", change), "xgboost", MIXED)


def test_categories_beyond_their_array_are_refused(edited):
    def change(document, trees):
        tree = next(tree for tree in trees if tree["categories"])
        tree["categories_sizes"][0] = 2**30

    with pytest.raises(Invalid, match="its categories lie outside"):
        load(edited("category", change), "xgboost", MIXED)


def test_dead_nodes_that_pruning_left_are_accepted(boosters, data, folder, tmp_path):
    import xgboost as xgb

    names = [feature.name for feature in NUMBERS.features]
    rows = xgb.DMatrix(data[0], (data[1] > 0).astype(int), feature_names=names)
    pruning = {
        "objective": "binary:logistic",
        "tree_method": "exact",
        "gamma": 5.0,
        "max_depth": 6,
        "nthread": 1,
    }
    booster = xgb.train(pruning, rows, 10)
    booster.save_model(tmp_path / "pruned.json")
    document = json.loads((tmp_path / "pruned.json").read_text())
    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    assert any(tree["tree_param"]["num_deleted"] != "0" for tree in trees)
    found = load(tmp_path / "pruned.json", "xgboost", NUMBERS).predict(data[0])
    assert (found.scores == booster.inplace_predict(data[0])).all()


@pytest.mark.parametrize(
    "text",
    ['{"learner": 1, "learner": 2}', '{"a": NaN}', '{"a": -Infinity}', '{"a": ', "{}", '{"a":' + "[" * 100_000],
)  # fmt: skip
def test_json_that_two_readers_could_read_differently_is_refused(text, tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(Invalid) as caught:
        load(path, "xgboost", NUMBERS)
    assert caught.value.code == "corrupt_model"


@pytest.mark.parametrize(
    "raw",
    [
        b"{i\x01ai\x01i\x01ai\x02}",  # a key twice
        b"{i\x01a[$d#L\x00\x00\x00\x00\x7f\xff\xff\xff}",  # more than there is
        b"{i\x01a[$S#i\x01}",  # typed array of texts
        b"{i\x01aQ}",  # unknown marker
        b"{i\xffa}",  # negative length
        b"{i\x01ai\x01} ",  # trailing byte
        b"{i\x01aSi\x01\xff}",  # no UTF-8
        b"{i\x01a" + b"[" * 200,  # too deep
        b"{i\x01ai\x01",  # cut off
        b"{S",
    ],
)
def test_ubj_that_is_out_of_bounds_is_refused(raw):
    with pytest.raises(Invalid) as caught:
        ubj.loads(raw)
    assert caught.value.code == "corrupt_model"


def test_both_formats_are_read_as_the_same_document(boosters, folder):
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list | np.ndarray):
            return [plain(each) for each in value]
        return float(np.float32(value)) if isinstance(value, float | np.floating) else value

    for name in boosters:
        text = json.loads((folder / f"{name}.json").read_text())
        assert plain(ubj.loads((folder / f"{name}.ubj").read_bytes())) == plain(text)


@pytest.mark.parametrize("runtime", ["native", "auto"])
def test_threads_predict_at_once_and_none_sees_anothers_rows(runtime, boosters, data, folder):
    from concurrent.futures import ThreadPoolExecutor

    model = load(folder / "binary.ubj", "xgboost", NUMBERS, runtime=runtime)
    pieces = [data[0][start : start + 1 + start % 90] for start in range(1_000)]
    wanted = [model.predict(piece).scores for piece in pieces]
    for _ in range(3):  # each time new threads, whose own notes end with them
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda piece: model.predict(piece).scores, pieces))
        assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
