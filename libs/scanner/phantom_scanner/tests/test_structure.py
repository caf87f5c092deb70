"""Damage in XGBoost and ONNX models is refused by name of the node, and crashes nothing.

`phantom_runtimes` has its own mutations of bytes and documents; these are aimed at single nodes.
"""

import copy
import json
import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from phantom_scanner.tests.conftest import dumped_by_joblib

FEATURES = 5


@pytest.fixture(scope="session")
def booster():
    import xgboost as xgb

    rng = np.random.default_rng(2)
    rows = rng.normal(size=(400, FEATURES))
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(int)
    return xgb.train(
        {"objective": "binary:logistic", "max_depth": 4, "nthread": 1}, xgb.DMatrix(rows, labels), 6
    )


@pytest.fixture(scope="session")
def document(booster):
    return json.loads(booster.save_raw("json"))


@pytest.fixture(scope="session")
def ensemble(booster):
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    return convert_xgboost(booster, initial_types=[("input", FloatTensorType([None, FEATURES]))])


def trees_of(document):
    return document["learner"]["gradient_booster"]["model"]["trees"]


def inner_nodes(tree):
    return [node for node, left in enumerate(tree["left_children"]) if left != -1]


DAMAGE = {
    "left child beyond the tree": ("left_children", lambda tree, node: len(tree["left_children"])),
    "left child far beyond": ("left_children", lambda tree, node: 2_000_000_000),
    "left child is the root": ("left_children", lambda tree, node: 0),
    "left child is itself": ("left_children", lambda tree, node: node),
    "left child is the other": ("left_children", lambda tree, node: tree["right_children"][node]),
    "right child beyond the tree": ("right_children", lambda tree, node: len(tree["left_children"]) + 7),
    "right child is below zero": ("right_children", lambda tree, node: -7),
    "one child only": ("right_children", lambda tree, node: -1),
    "feature beyond the last": ("split_indices", lambda tree, node: FEATURES),
    "feature far beyond": ("split_indices", lambda tree, node: 2**31 - 1),
    "feature below zero": ("split_indices", lambda tree, node: -1),
    "threshold beyond float": ("split_conditions", lambda tree, node: 1e999),
    "split of no kind": ("split_type", lambda tree, node: 3),
    "child names another parent": ("parents", lambda tree, node: node + 1),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("form", ["json", "ubj"])
def test_a_damaged_node_of_an_xgboost_model_is_named(what, form, document, look):
    from phantom_scanner.tests.ubj_writer import dumps

    array, value = DAMAGE[what]
    for place, pick in ((0, 0), (3, -1)):
        damaged = copy.deepcopy(document)
        tree = trees_of(damaged)[place]
        node = inner_nodes(tree)[pick] if array != "parents" else inner_nodes(tree)[0] + 1
        tree[array][node] = value(tree, node)
        raw = json.dumps(damaged).replace("Infinity", "1e999").encode() if form == "json" else dumps(damaged)
        report = look(raw, "xgboost")
        found = [each for each in report.findings if each.scan == "structure"]
        assert found, what
        assert f"tree {place}" in found[0].location + found[0].evidence
        assert "node" in found[0].location, found[0]


def test_honest_xgboost_models_of_both_forms_pass(booster, look):
    for form in ("json", "ubj"):
        report = look(bytes(booster.save_raw(form)), "xgboost", name=f"model.pkl-{form}")
        assert (report.verdict, report.format) == ("pass", f"xgboost-{form}"), report.findings


def attribute(model, name):
    node = next(each for each in model.graph.node if each.op_type.startswith("TreeEnsemble"))
    return next(each for each in node.attribute if each.name == name)


def replaced(values, place, value):
    kept = list(values)
    kept[place] = value
    del values[:]
    values.extend(kept)


def first_inner(model, pick=0):
    modes = list(attribute(model, "nodes_modes").strings)
    return [place for place, mode in enumerate(modes) if mode != b"LEAF"][pick]


ONNX_DAMAGE = {
    "child beyond the tree": ("nodes_truenodeids", lambda m, at: 99_999),
    "child below zero": ("nodes_falsenodeids", lambda m, at: -5),
    "child is the root": ("nodes_truenodeids", lambda m, at: 0),
    "child is the other": ("nodes_truenodeids", lambda m, at: attribute(m, "nodes_falsenodeids").ints[at]),
    "child is itself": ("nodes_falsenodeids", lambda m, at: attribute(m, "nodes_nodeids").ints[at]),
    "feature beyond the last": ("nodes_featureids", lambda m, at: FEATURES),
    "feature below zero": ("nodes_featureids", lambda m, at: -1),
    "node twice": ("nodes_nodeids", lambda m, at: attribute(m, "nodes_nodeids").ints[at + 1]),
    "node of another tree": ("nodes_treeids", lambda m, at: 77),
}


@pytest.mark.parametrize("what", ONNX_DAMAGE)
@pytest.mark.parametrize("pick", [0, -1])
def test_a_damaged_node_of_an_onnx_ensemble_is_named(what, pick, ensemble, look):
    name, value = ONNX_DAMAGE[what]
    model = copy.deepcopy(ensemble)
    at = first_inner(model, pick)
    replaced(attribute(model, name).ints, at, value(model, at))
    report = look(model.SerializeToString(), "onnx")
    found = [each for each in report.findings if each.scan == "structure"]
    assert found, what
    assert "node" in found[0].location
    assert "tree" in found[0].location, found[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["nodes_values", "class_weights"])
def test_a_number_that_is_not_finite_is_refused(name, value, ensemble, look):
    model = copy.deepcopy(ensemble)
    replaced(attribute(model, name).floats, 3, value)
    found = look(model.SerializeToString(), "onnx").findings
    assert "not finite" in found[0].evidence
    assert found[0].location == "node 0"


@pytest.mark.parametrize(
    ("name", "value"),
    [("class_ids", 9), ("class_nodeids", 0), ("class_nodeids", 8_000), ("class_treeids", 9_000)],
)
def test_a_leaf_that_answers_for_no_class_or_is_none_is_refused(name, value, ensemble, look):
    model = copy.deepcopy(ensemble)
    replaced(attribute(model, name).ints, 2, value)
    report = look(model.SerializeToString(), "onnx")
    assert "tree" in report.findings[0].location, report.findings


def test_cut_and_unknown_attributes_are_refused(ensemble, look):
    for name in ("nodes_truenodeids", "nodes_featureids", "nodes_treeids", "class_nodeids"):
        model = copy.deepcopy(ensemble)
        del attribute(model, name).ints[-1]
        assert look(model.SerializeToString(), "onnx").verdicts["structure"] == "fail"
    model = copy.deepcopy(ensemble)
    attribute(model, "nodes_modes").strings[0] = b"BRANCH_SOMEHOW"
    assert look(model.SerializeToString(), "onnx").verdicts["structure"] == "fail"


def test_an_honest_onnx_ensemble_passes(ensemble, look):
    report = look(ensemble.SerializeToString(), "onnx")
    assert (report.verdict, report.format) == ("pass", "onnx"), report.findings


def linear(*, operator="MatMul", domain="", weights=None, wiring="x", output="y"):
    weights = numpy_helper.from_array(np.ones((3, 1), np.float32), "w") if weights is None else weights
    graph = helper.make_graph(
        [helper.make_node(operator, [wiring, "w"], ["y"], name="multiply", domain=domain)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 1])],
        [weights],
    )
    return helper.make_model(graph)


def outside(location):
    tensor = numpy_helper.from_array(np.ones((3, 1), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def test_weights_outside_of_the_file_fail_and_paths_that_escape_are_critical(look):
    for location in ("../../etc/passwd", "/etc/shadow", "a/../../b"):
        report = look(linear(weights=outside(location)).SerializeToString(), "onnx")
        assert report.verdicts["malware_scan"] == "fail"
        assert any(
            each.id == "onnx.external_data" and each.severity == "critical" for each in report.findings
        )
    beside = look(linear(weights=outside("weights.bin")).SerializeToString(), "onnx")
    assert (beside.verdicts["malware_scan"], beside.verdicts["structure"]) == ("pass", "fail")


def test_unknown_operators_and_broken_wiring_fail(look):
    assert look(linear().SerializeToString(), "onnx").verdict == "pass"
    for changed in (
        {"operator": "Exec"},
        {"domain": "com.microsoft", "operator": "Inverse"},
        {"operator": "Loop"},
        {"wiring": "nothing"},
        {"output": "nowhere"},
        {"weights": numpy_helper.from_array(np.array([[1], [np.nan], [1]], np.float32), "w")},
    ):
        assert look(linear(**changed).SerializeToString(), "onnx").verdicts["structure"] == "fail", changed
    again = linear()
    again.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    assert "node 1" in look(again.SerializeToString(), "onnx").findings[0].location
    short = linear()
    short.graph.initializer[0].dims[0] = 4_000_000
    assert look(short.SerializeToString(), "onnx").verdicts["structure"] == "fail"


def test_new_tree_ensembles_are_checked_too(look):
    def model(**changed):
        arrays = {
            "tree_roots": [0], "nodes_featureids": [0, 1], "nodes_truenodeids": [0, 1], "nodes_trueleafs": [1, 1],
            "nodes_falsenodeids": [1, 2], "nodes_falseleafs": [0, 1], "leaf_targetids": [0, 0, 0], **changed,
        }  # fmt: skip
        arrays["nodes_splits"] = helper.make_tensor("s", TensorProto.FLOAT, [2], [0.5, 0.5])
        arrays["nodes_modes"] = helper.make_tensor("m", TensorProto.UINT8, [2], [0, 0])
        arrays["leaf_weights"] = helper.make_tensor("l", TensorProto.FLOAT, [3], [1, 2, 3])
        node = helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, **arrays)
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])]
        return helper.make_model(helper.make_graph([node], "trees", inputs, outputs)).SerializeToString()

    assert look(model(), "onnx").verdict == "pass"
    for changed in (
        {"nodes_falsenodeids": [0, 2]},
        {"nodes_falsenodeids": [7, 2]},
        {"nodes_truenodeids": [9, 1]},
        {"nodes_featureids": [0, 3]},
        {"tree_roots": [5]},
        {"leaf_targetids": [0, 4, 0]},
        {"nodes_trueleafs": [1]},
    ):
        assert look(model(**changed), "onnx").verdicts["structure"] == "fail", changed


def test_what_onnxs_own_checker_accepts_is_refused_here(ensemble, look):
    model = copy.deepcopy(ensemble)
    replaced(attribute(model, "nodes_featureids").ints, first_inner(model), 400)
    onnx.checker.check_model(model)
    assert look(model.SerializeToString(), "onnx").verdicts["structure"] == "fail"


def test_a_file_of_another_framework_than_registered_fails(booster, look):
    report = look(bytes(booster.save_raw("ubj")), "onnx")
    assert [each.id for each in report.findings] == ["structure.wrong_format"]


TREE_DAMAGE = {
    "child beyond the tree": ("left_child", 9_999),
    "child below zero": ("right_child", -7),
    "child is the root": ("left_child", 0),
    "one child only": ("right_child", -1),
    "feature beyond the last": ("feature", 77),
    "threshold that is no number": ("threshold", float("nan")),
}


@pytest.mark.parametrize("what", TREE_DAMAGE)
@pytest.mark.parametrize("form", ["2", "4", "5", "joblib", "joblib zlib"])
def test_a_damaged_tree_inside_of_a_pickled_model_is_refused(what, form, look):
    # scikit-learn loads such a tree, and reads foreign memory when it predicts.
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(4)
    rows = rng.normal(size=(200, FEATURES))
    model = DecisionTreeClassifier(max_depth=3).fit(rows, rows[:, 0] + rows[:, 1] > 0)
    assert look(pickled(model, form)).verdict == "pass"
    name, value = TREE_DAMAGE[what]
    state = model.tree_.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][name][0] = value
    model.tree_.__setstate__(state)
    report = look(pickled(model, form))
    found = [each for each in report.findings if each.scan == "structure"]
    assert found, what
    assert found[0].location.startswith("tree at byte ")


def pickled(model, form):
    if form.startswith("joblib"):
        return dumped_by_joblib(model, ("zlib", 3) if "zlib" in form else 0)
    return pickle.dumps(model, protocol=int(form))
