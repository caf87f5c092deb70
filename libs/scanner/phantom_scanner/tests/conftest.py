"""Honest models of many kinds, and a pickler for dishonest ones. Nothing here is ever unpickled."""

import io
import pickle
import struct
import warnings

import numpy as np
import pytest

from phantom_scanner.inspection import inspect
from phantom_scanner.limits import Limits


@pytest.fixture(scope="session")
def pipelines():
    """name → fitted estimator: twenty and more pipelines that people do serve."""
    import xgboost as xgb
    from sklearn import (
        calibration,
        compose,
        decomposition,
        ensemble,
        impute,
        linear_model,
        naive_bayes,
        neighbors,
        neural_network,
        preprocessing,
        svm,
        tree,
    )
    from sklearn.pipeline import FeatureUnion, make_pipeline

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 4))
    labels = (rows[:, 0] > 0).astype(int)
    columns = [
        ("scaled", preprocessing.StandardScaler(), [0, 1]),
        ("binned", preprocessing.KBinsDiscretizer(3), [2]),
    ]
    logistic, stump = linear_model.LogisticRegression(), tree.DecisionTreeClassifier(max_depth=2)
    estimators = {
        "logistic": make_pipeline(preprocessing.StandardScaler(), logistic),
        "forest": make_pipeline(
            preprocessing.MinMaxScaler(), ensemble.RandomForestClassifier(4, random_state=1)
        ),
        "random state": ensemble.ExtraTreesClassifier(3, random_state=np.random.RandomState(0)),
        "boosting": ensemble.GradientBoostingClassifier(n_estimators=3),
        "histogram boosting": ensemble.HistGradientBoostingClassifier(max_iter=3),
        "perceptron": neural_network.MLPClassifier((4,), max_iter=5),
        "neighbours": make_pipeline(impute.SimpleImputer(), neighbors.KNeighborsClassifier()),
        "support vectors": make_pipeline(preprocessing.RobustScaler(), svm.SVC()),
        "bayes": naive_bayes.GaussianNB(),
        "ada": ensemble.AdaBoostClassifier(stump, n_estimators=2),
        "bagging": ensemble.BaggingClassifier(stump, n_estimators=2),
        "voting": ensemble.VotingClassifier([("a", logistic), ("b", stump)]),
        "stacking": ensemble.StackingClassifier([("a", logistic), ("b", stump)], cv=2),
        "sigmoid": calibration.CalibratedClassifierCV(logistic, cv=2),
        "isotonic": calibration.CalibratedClassifierCV(naive_bayes.GaussianNB(), method="isotonic", cv=2),
        "gradient descent": linear_model.SGDClassifier(loss="log_loss"),
        "columns": make_pipeline(compose.ColumnTransformer(columns, remainder="passthrough"), logistic),
        "components": make_pipeline(decomposition.PCA(2), logistic),
        "union": make_pipeline(
            FeatureUnion([("a", decomposition.PCA(1)), ("b", preprocessing.Normalizer())]), logistic
        ),
        "powers": make_pipeline(
            preprocessing.PolynomialFeatures(2), preprocessing.PowerTransformer(), logistic
        ),
        "xgboost": xgb.XGBClassifier(n_estimators=3, n_jobs=1),
        "xgboost pipeline": make_pipeline(
            preprocessing.QuantileTransformer(n_quantiles=10), xgb.XGBClassifier(n_estimators=2, n_jobs=1)
        ),
        "regression": make_pipeline(preprocessing.MaxAbsScaler(), linear_model.Ridge()),
        "isolation": ensemble.IsolationForest(n_estimators=3),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: each.fit(rows, labels) for name, each in estimators.items()}


@pytest.fixture
def look(tmp_path):
    """look(bytes, framework) → the report, in this process."""
    numbers = iter(range(10_000))

    def look(data, framework="scikit-learn", limits=None, name=None, schema=None):
        path = tmp_path / (name or f"model-{next(numbers)}")
        path.write_bytes(data)
        return inspect(path, framework, schema, limits or Limits())

    return look


def text(value):
    """SHORT_BINUNICODE or BINUNICODE of a text."""
    raw = value.encode()
    if len(raw) < 256:
        return pickle.SHORT_BINUNICODE + bytes([len(raw)]) + raw
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def named(module, name, protocol):
    """The opcodes that push a global."""
    if protocol >= 4:
        return text(module) + text(name) + pickle.STACK_GLOBAL
    return b"c" + f"{module}\n{name}\n".encode()


def called(module, name, *args, protocol=4):
    """A whole pickle that calls module.name(*args)."""
    return begin(protocol) + call(module, name, *args, protocol=protocol) + b"."


def call(module, name, *args, protocol=4):
    """The opcodes of a call; arguments are texts, or bytes: opcodes that push something."""
    pushed = b"".join(each if isinstance(each, bytes) else text(each) for each in args)
    return named(module, name, protocol) + b"(" + pushed + b"tR"


def begin(protocol=4):
    return pickle.PROTO + bytes([protocol]) if protocol >= 2 else b""


def with_frames(opcodes):
    """One frame around the opcodes, as protocol 4 writes."""
    return begin() + pickle.FRAME + struct.pack("<Q", len(opcodes)) + opcodes


def dumped_by_joblib(value, compress=0):
    import joblib

    file = io.BytesIO()
    joblib.dump(value, file, compress=compress)
    return file.getvalue()
