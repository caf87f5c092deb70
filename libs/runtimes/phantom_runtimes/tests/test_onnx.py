import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from phantom_contracts.schema import Feature, ModelSchema
from phantom_runtimes import Invalid, load
from phantom_runtimes.tests.conftest import NUMBERS, THREE, VALUE

PAIR = ModelSchema(
    features=(Feature(name="a"), Feature(name="b", type="int", allows_missing=False)), task="regression"
)


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def made(nodes, inputs, outputs, path, initializers=(), opsets=(("", 17), ("ai.onnx.ml", 3))):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    imports = [helper.make_opsetid(*each) for each in opsets]
    return saved(helper.make_model(graph, opset_imports=imports, ir_version=9), path)


def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def summing(path, nodes=None, **more):
    """A regression model: the row's sum."""
    nodes = nodes or [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    return made(nodes, [floats("x", None, 6)], [floats("y", None)], path, [axes], **more)


def test_a_converted_booster_answers_as_the_booster(boosters, onnx_binary, data):
    found = load(onnx_binary, "onnx", NUMBERS).predict(data[0])
    wanted = boosters["binary"][1].inplace_predict(data[0])
    np.testing.assert_allclose(found.scores, wanted, atol=1e-5)
    assert found.probabilities.dtype == np.float32
    assert found.labels.dtype == np.int32


@pytest.mark.parametrize("zipmap", [False, True])
def test_a_scikit_learn_model_is_taken_without_zipmap_only(zipmap, data, tmp_path):
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    target = np.where(data[1] > 0, "late", "early")
    model = LogisticRegression().fit(data[0], target)
    path = saved(to_onnx(model, data[0][:1], options={"zipmap": zipmap}), tmp_path / "m")
    if zipmap:
        with pytest.raises(Invalid, match="zipmap=False"):
            load(path, "onnx", NUMBERS)
        return
    # the model's classes are early, late; the schema has them the other way round
    schema = NUMBERS.model_copy(update={"class_labels": ("late", "early"), "positive_label": "late"})
    found = load(path, "onnx", schema).predict(data[0])
    np.testing.assert_allclose(found.probabilities[:, 0], model.predict_proba(data[0])[:, 1], atol=1e-5)
    np.testing.assert_allclose(found.scores, found.probabilities[:, 0])
    with pytest.raises(Invalid, match="its schema lists") as caught:
        load(path, "onnx", NUMBERS)  # on_time, late: other names
    assert caught.value.code == "schema_mismatch"


def test_one_input_a_feature_is_taken_by_name(tmp_path):
    whole = helper.make_tensor_value_info("b", TensorProto.INT64, [None, 1])
    nodes = [
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["a", "c"], ["y"]),
    ]
    model = load(
        made(nodes, [whole, floats("a", None, 1)], [floats("y", None, 1)], tmp_path / "m"), "onnx", PAIR
    )
    assert model.predict(np.array([[3.5, 1], [2, 4]])).values.tolist() == [2.5, -2.0]
    with pytest.raises(Invalid, match="'b' as tensor\\(int64\\), which has no missing value"):
        model.predict(np.array([[1.0, np.nan]]))


def test_categories_reach_a_text_input_as_text(tmp_path):
    schema = ModelSchema(
        features=(Feature(name="c", type="string", categories=("UA", "AA")), Feature(name="a")),
        task="regression",
    )
    nodes = [
        helper.make_node(
            "LabelEncoder", ["c"], ["n"], domain="ai.onnx.ml", keys_strings=["AA", "UA", ""],
            values_floats=[10.0, 20.0, 30.0], default_float=-1.0,
        ),
        helper.make_node("Add", ["n", "a"], ["y"]),
    ]  # fmt: skip
    texts = helper.make_tensor_value_info("c", TensorProto.STRING, [None, 1])
    path = made(nodes, [texts, floats("a", None, 1)], [floats("y", None, 1)], tmp_path / "m")
    values = load(path, "onnx", schema).predict(np.array([[0, 1.0], [1, 1.0], [np.nan, 1.0]])).values
    assert values.tolist() == [21.0, 11.0, 31.0]


def test_external_data_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(np.ones(6, dtype=np.float32).tobytes())
    path = tmp_path / "m.onnx"
    weights = numpy_helper.from_array(np.ones((6, 1), dtype=np.float32), "w")
    made(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [floats("x", None, 6)],
        [floats("y", None, 1)],
        path,
        [weights],
    )
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(Invalid, match="'w' lies in another file") as caught:
        load(saved(model, path), "onnx", VALUE)
    assert caught.value.code == "unsupported_model"


@pytest.mark.parametrize(
    ("node", "opsets", "what"),
    [
        (helper.make_node("Custom", ["x"], ["y"], domain="evil"), [("", 17), ("evil", 1)], "'evil.Custom'"),
        (
            helper.make_node("FusedGemm", ["x"], ["y"], domain="com.microsoft"),
            [("", 17)],
            "'com.microsoft.FusedGemm'",
        ),
        (helper.make_node("StringSplit", ["x"], ["y"]), [("", 20)], "'StringSplit'"),
        (helper.make_node("Loop", ["x"], ["y"]), [("", 17)], "'Loop'"),
    ],
)
def test_an_unknown_operator_is_refused_by_name(node, opsets, what, tmp_path):
    with pytest.raises(Invalid, match=what) as caught:
        load(summing(tmp_path / "m", [node], opsets=opsets), "onnx", VALUE)
    assert caught.value.code == "unsupported_model"


def test_a_model_of_another_width_or_output_is_refused(tmp_path, onnx_binary):
    narrow = VALUE.model_copy(update={"features": VALUE.features[:5]})
    with pytest.raises(Invalid, match="its schema lists 5 features"):
        load(summing(tmp_path / "m"), "onnx", narrow)
    with pytest.raises(Invalid, match=r"answers \(2,\) for 2 rows"):
        load(summing(tmp_path / "m"), "onnx", THREE)
    two = made(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["z"])],
        [floats("x", None, 6)],
        [floats("y", None, 6), floats("z", None, 6)],
        tmp_path / "two",
    )
    with pytest.raises(Invalid, match="has 2 outputs that could be its values"):
        load(two, "onnx", VALUE)
    other = made(
        [helper.make_node("Add", ["p", "q"], ["y"])],
        [floats("p", None, 1), floats("q", None, 1)],
        [floats("y", None, 1)],
        tmp_path / "other",
    )
    with pytest.raises(Invalid, match=r"takes the inputs \['p', 'q'\]"):
        load(other, "onnx", PAIR)


def test_a_regression_model_answers_values(tmp_path):
    found = load(summing(tmp_path / "m"), "onnx", VALUE).predict(
        np.arange(12, dtype=np.float64).reshape(2, 6)
    )
    assert found.values.tolist() == [15.0, 51.0]
    assert found.labels is None
    assert found.values.dtype == np.float64


@pytest.mark.parametrize("attribute", ["nodes_truenodeids", "nodes_featureids", "nodes_falsenodeids"])
def test_a_damaged_tree_is_refused(attribute, onnx_binary, tmp_path):
    model = onnx.load(onnx_binary)
    trees = next(node for node in model.graph.node if node.op_type.startswith("TreeEnsemble"))
    next(each for each in trees.attribute if each.name == attribute).ints[0] = 10_000_000
    path = saved(model, tmp_path / "m")
    with pytest.raises(Invalid) as caught:
        load(path, "onnx", NUMBERS)
    assert caught.value.code == "corrupt_model"
