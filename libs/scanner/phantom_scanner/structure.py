"""Whether a model's own numbers hold together, by the validators of the runtimes and without a schema where there is
none: it is then made up of what the model says of itself."""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from phantom_contracts.schema import Feature, ModelSchema
from phantom_runtimes import onnx_check, sklearn_check, ubj, xgboost_check
from phantom_runtimes.errors import Invalid
from phantom_scanner import onnx_trees
from phantom_scanner.pickles.arrays import array_of
from phantom_scanner.pickles.values import Made, MalformedError

MAX_FEATURES = 1_000_000


def check_xgboost(raw: bytes, schema: ModelSchema | None) -> None:
    """Invalid, with `tree` and `node` where it has them, unless every tree of the document is sound."""
    document = _xgboost_document(raw)
    xgboost_check.check(document, schema or _own_schema(document))


def check_booster(raw: bytes, schema: ModelSchema | None) -> None:
    """The same of what a pickled booster keeps: the model beside its training configuration."""
    document = _xgboost_document(raw)
    model = document.get("Model", document) if isinstance(document, dict) else document
    xgboost_check.check(model, schema or _own_schema(model))


def _xgboost_document(raw: bytes) -> Any:
    return xgboost_check.parse_json(raw) if raw[1:2] in b'"} \t\r\n' else ubj.loads(raw)


def check_onnx(raw: bytes, schema: ModelSchema | None) -> None:
    """Invalid, with `node` where it has one, unless the graph is self-contained and its trees are sound."""
    features = (Feature(name="x"),)
    onnx_check.check(raw, schema or ModelSchema(features=features, task="regression"))
    onnx_trees.check(raw)


def check_tree(tree: Made) -> None:
    """Invalid unless a pickled scikit-learn tree's nodes lead nowhere but into it."""
    state = tree.state if isinstance(tree.state, dict) else {}
    try:
        nodes, values = array_of(state.get("nodes")), array_of(state.get("values"))
    except MalformedError as error:
        raise Invalid("corrupt_model", f"a tree's arrays cannot be read: {error}") from error
    names = ("left_child", "right_child", "feature", "threshold")
    if (
        nodes.dtype.names is None
        or not set(names) <= set(nodes.dtype.names)
        or state.get("node_count") != len(nodes)
    ):
        raise Invalid("corrupt_model", "a tree's nodes are not scikit-learn's, or not as many as it says")
    left, right, feature, threshold = (nodes[name] for name in names)
    arrays = SimpleNamespace(
        children_left=left, children_right=right, feature=feature, threshold=threshold, value=values
    )
    sklearn_check.check_tree(arrays, int(tree.args[0]) if tree.args and isinstance(tree.args[0], int) else 0)


def check_skops(raw: bytes) -> None:
    """Invalid unless the file holds nothing but the types that the runtime loads."""
    with tempfile.NamedTemporaryFile(prefix="phantom-scan-") as file:
        file.write(raw)
        file.flush()
        sklearn_check.check_file(Path(file.name))


def _own_schema(document: Any) -> ModelSchema:
    """A schema that asks for nothing but what the model names itself."""
    learner = document.get("learner") if isinstance(document, dict) else None
    parameters = learner.get("learner_model_param") if isinstance(learner, dict) else None
    text = parameters.get("num_feature") if isinstance(parameters, dict) else None
    if not isinstance(learner, dict) or not str(text).isdigit() or not 1 <= int(str(text)) <= MAX_FEATURES:
        raise Invalid("corrupt_model", "the model does not say how many features it takes")
    count = int(str(text))
    names = learner.get("feature_names") or [f"f{place}" for place in range(count)]
    if not isinstance(names, list) or len(names) != count:
        raise Invalid("corrupt_model", f"the model names {len(names)} features and takes {count}")
    categories = _own_categories(learner, count)
    # Not validated: any names may be in a file, and here they are only compared with themselves.
    features = tuple(
        Feature.model_construct(name=name, categories=each)
        for name, each in zip(names, categories, strict=True)
    )
    return ModelSchema.model_construct(features=features, task="regression")


def _own_categories(learner: dict[str, Any], count: int) -> list[tuple[str, ...]]:
    """The categories that the model keeps, or as many unnamed ones as its splits could use."""
    unnamed = tuple(str(place) for place in range(1024))
    plain: list[tuple[str, ...]] = [unnamed] * count
    try:
        booster = learner["gradient_booster"]
        model = booster.get("gbtree", booster)["model"]
        encoded = model["cats"]["enc"]
    except (KeyError, TypeError, AttributeError):
        return plain
    if not isinstance(encoded, list) or len(encoded) != count:
        return plain
    return [
        tuple(xgboost_check.category_texts(each, f"feature {n}")) or unnamed for n, each in enumerate(encoded)
    ]


def external_files(raw: bytes) -> list[tuple[str, str]]:
    """(tensor, path) for every tensor that an ONNX model keeps in another file."""
    from onnx.onnx_ml_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except Exception:  # protobuf's error classes differ by implementation; `check_onnx` reports a broken file
        return []
    found = []
    for tensor in onnx_check.tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                found.append((f"tensor {tensor.name!r:.60}", entry.value))
    return found
