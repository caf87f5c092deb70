"""Which scikit-learn models may be loaded from a skops file, and that their trees cannot crash the process.

Decision 0004: an exact list of types, ours and not skops' own, which grows only when a type was looked at. Trees
are on it because their node arrays are checked after loading and before the first predict.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from phantom_runtimes.errors import Invalid, corrupt

_MAX_BYTES = 2 * 1024**3  # unpacked

LOADERS = frozenset(
    [
        "CachedNode",
        "DictNode",
        "DTypeNode",
        "JsonNode",
        "ListNode",
        "LossNode",
        "NdArrayNode",
        "ObjectNode",
        "RandomStateNode",
        "SliceNode",
        "SparseMatrixNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
    ]
)
TYPES: dict[str, frozenset[str]] = {
    "builtins": frozenset(["dict", "list", "slice", "str", "tuple", "int", "float", "bool", "NoneType"]),
    "collections": frozenset(["OrderedDict", "defaultdict"]),
    "numpy": frozenset(
        [
            "ndarray",
            "dtype",
            "bool",
            "bool_",
            "float16",
            "float32",
            "float64",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "str_",
            "object_",
        ]
    ),
    "numpy.random.mtrand": frozenset(["RandomState"]),
    "scipy.sparse._csr": frozenset(["csr_matrix"]),
    "sklearn._loss._loss": frozenset(
        [
            "CyHalfSquaredError",
            "CyAbsoluteError",
            "CyHuberLoss",
            "CyHalfBinomialLoss",
            "CyHalfMultinomialLoss",
            "CyExponentialLoss",
        ]
    ),
    "sklearn._loss.link": frozenset(
        ["Interval", "IdentityLink", "LogLink", "LogitLink", "HalfLogitLink", "MultinomialLogit"]
    ),
    "sklearn._loss.loss": frozenset(
        [
            "HalfSquaredError",
            "AbsoluteError",
            "HuberLoss",
            "HalfBinomialLoss",
            "HalfMultinomialLoss",
            "ExponentialLoss",
        ]
    ),
    "sklearn.compose._column_transformer": frozenset(["ColumnTransformer"]),
    "sklearn.dummy": frozenset(["DummyClassifier", "DummyRegressor"]),
    "sklearn.ensemble._forest": frozenset(
        ["RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"]
    ),
    "sklearn.ensemble._gb": frozenset(["GradientBoostingClassifier", "GradientBoostingRegressor"]),
    "sklearn.impute._base": frozenset(["SimpleImputer", "MissingIndicator"]),
    "sklearn.linear_model._base": frozenset(["LinearRegression"]),
    "sklearn.linear_model._coordinate_descent": frozenset(["ElasticNet", "Lasso"]),
    "sklearn.linear_model._logistic": frozenset(["LogisticRegression", "LogisticRegressionCV"]),
    "sklearn.linear_model._ridge": frozenset(["Ridge"]),
    "sklearn.linear_model._stochastic_gradient": frozenset(["SGDClassifier", "SGDRegressor"]),
    "sklearn.naive_bayes": frozenset(["BernoulliNB", "GaussianNB", "MultinomialNB"]),
    "sklearn.neural_network._multilayer_perceptron": frozenset(["MLPClassifier", "MLPRegressor"]),
    "sklearn.neural_network._stochastic_optimizers": frozenset(["AdamOptimizer", "SGDOptimizer"]),
    "sklearn.pipeline": frozenset(["FeatureUnion", "Pipeline"]),
    "sklearn.preprocessing._data": frozenset(
        [
            "MaxAbsScaler",
            "MinMaxScaler",
            "Normalizer",
            "PolynomialFeatures",
            "PowerTransformer",
            "QuantileTransformer",
            "RobustScaler",
            "StandardScaler",
        ]
    ),
    "sklearn.preprocessing._discretization": frozenset(["KBinsDiscretizer"]),
    "sklearn.preprocessing._encoders": frozenset(["OneHotEncoder", "OrdinalEncoder"]),
    "sklearn.preprocessing._label": frozenset(["LabelBinarizer", "LabelEncoder"]),
    "sklearn.tree._classes": frozenset(
        ["DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"]
    ),
    "sklearn.tree._tree": frozenset(["Tree"]),
}
# On our list and not on skops' own: we look at their contents ourselves, or they hold nothing but numbers.
BEYOND_SKOPS = (
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)


def check_file(path: Path) -> None:
    """Raise Invalid unless the skops file holds nothing but the types listed here."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
            broken = archive.testzip()
            if broken:
                raise corrupt(f"the file's part {broken!r:.80} is damaged")
            document = json.loads(archive.read("schema.json"))
            for node in _nodes(document):
                _check_node(node)
    except Invalid:
        raise
    except RecursionError as error:
        raise corrupt("the file is nested too deeply") from error
    except Exception as error:  # zip, zlib, JSON: each has errors of its own, all mean a damaged file
        raise corrupt(f"the skops file cannot be read: {error}") from error


def check_estimator(estimator: object) -> None:
    """Raise Invalid `corrupt_model` where a tree inside the loaded estimator points outside itself."""
    from sklearn.tree._tree import Tree

    for tree, features in _trees(estimator, Tree, None, set()):
        check_tree(tree, features)


def _check_members(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise corrupt("the file holds a name twice")
    if any("/" in name or "\\" in name or ".." in name for name in names):
        raise corrupt("the file holds paths")
    if sum(member.file_size for member in members) > _MAX_BYTES:
        raise corrupt(f"the file unpacks to more than {_MAX_BYTES} bytes")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if any(key in value for key in ("__class__", "__module__", "__loader__")):
            yield value
        for each in value.values():
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)


def _check_node(node: dict[str, Any]) -> None:
    module, name, loader = (node.get(key) for key in ("__module__", "__class__", "__loader__"))
    if not isinstance(module, str) or name not in TYPES.get(module, ()) or loader not in LOADERS:
        raise Invalid(
            "unsupported_model",
            f"the file holds {module}.{name} (as {loader}), which is not among the types that may be loaded; "
            "convert the model to ONNX",
            type=f"{module}.{name}",
        )


def _trees(value: Any, kind: type, features: int | None, seen: set[int]) -> Iterator[tuple[Any, int]]:
    """Every tree inside, with the number of features that its callers check."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, kind):
        if features is None:
            raise corrupt("a tree stands outside an estimator that knows its number of features")
        yield value, features
        return
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple):
        inside = list(value)
    elif isinstance(value, np.ndarray):
        inside = value.ravel().tolist() if value.dtype == object else []
    elif type(value).__module__.startswith("sklearn."):
        inside = list(getattr(value, "__dict__", {}).values())
        features = _known_features(value, features)
    else:
        return
    for each in inside:
        yield from _trees(each, kind, features, seen)


def _known_features(estimator: Any, outer: int | None) -> int | None:
    module = type(estimator).__module__
    if not module.startswith(("sklearn.ensemble.", "sklearn.tree.")):
        return outer
    own = getattr(estimator, "n_features_in_", None)
    if own is None:
        return outer  # a prototype that was never fitted
    if not isinstance(own, int):
        raise corrupt(f"a {type(estimator).__name__} has {own!r:.40} features")
    stages = getattr(estimator, "n_trees_per_iteration_", None)
    if stages is not None and (estimator.estimators_.ndim != 2 or estimator.estimators_.shape[1] != stages):
        raise corrupt(f"a {type(estimator).__name__} does not have {stages} trees a round")
    return own if outer is None else min(own, outer)


def check_tree(tree: Any, features: int) -> None:
    """Raise Invalid `corrupt_model` where the arrays of a scikit-learn tree point outside it or its features."""
    left, right = tree.children_left.astype(np.int64), tree.children_right.astype(np.int64)
    count = len(left)
    if count < 1 or len(tree.value) != count or len(tree.feature) != count:
        raise corrupt("a tree has no nodes, or not one value a node")
    seen = np.zeros(count, dtype=bool)
    level = np.zeros(1, dtype=np.int64)
    while len(level):
        seen[level] = True
        splits = level[left[level] != -1]
        if (right[level[left[level] == -1]] != -1).any():
            raise corrupt("a node of a tree has one child only")
        children = np.concatenate([left[splits], right[splits]])
        if ((children < 1) | (children >= count)).any():
            raise corrupt(f"a node of a tree has a child that is not one of {count} nodes")
        if seen[children].any() or len(np.unique(children)) != len(children):
            raise corrupt("two nodes of a tree share a child, or lead in a circle")
        split = tree.feature[splits]
        if ((split < 0) | (split >= features)).any():
            raise corrupt(f"a node of a tree splits on a feature that is not one of {features}")
        level = children
    if not (np.isfinite(tree.threshold[seen]).all() and np.isfinite(tree.value[seen]).all()):
        raise corrupt("a tree holds a threshold or a value that is not a finite number")
