import contextlib
import json
import pickle
import warnings
import zipfile

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from phantom_runtimes import Invalid, load
from phantom_runtimes.tests.conftest import NUMBERS, THREE, VALUE

CLASSIFIERS = {
    "pipeline": make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    "forest": RandomForestClassifier(8, random_state=0, n_jobs=2),
    "boosting": GradientBoostingClassifier(n_estimators=5, random_state=0),
    "tree": DecisionTreeClassifier(max_depth=4),
    "bayes": GaussianNB(),
    "net": MLPClassifier((8,), max_iter=40, random_state=0),
    "columns": make_pipeline(
        ColumnTransformer(
            [("n", StandardScaler(), [0, 1]), ("c", OneHotEncoder(handle_unknown="ignore"), [5])]
        ),
        LogisticRegression(),
    ),
}


@pytest.fixture(scope="module")
def fitted(data):
    matrix = data[0].astype(np.float64)
    matrix[:, 5] = matrix[:, 5].round()
    target = np.where(data[1] > 0, "late", "on_time")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return matrix, {name: model.fit(matrix, target) for name, model in CLASSIFIERS.items()}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_in_the_safe_format_answers_as_it_does_itself(name, fitted, tmp_path):
    matrix, models = fitted
    skops.io.dump(models[name], tmp_path / "m")
    found = load(tmp_path / "m", "scikit-learn", NUMBERS).predict(matrix)
    # the model's classes are sorted: late, on_time; the schema's are on_time, late
    np.testing.assert_allclose(found.probabilities[:, ::-1], models[name].predict_proba(matrix), atol=1e-6)
    np.testing.assert_allclose(found.scores, models[name].predict_proba(matrix)[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [LinearRegression(), ExtraTreesRegressor(5, random_state=0), GradientBoostingRegressor(n_estimators=5)],
)
def test_a_regression_model_answers_as_it_does_itself(model, data, tmp_path):
    model.fit(*data)
    skops.io.dump(model, tmp_path / "m")
    found = load(tmp_path / "m", "scikit-learn", VALUE).predict(data[0].astype(np.float64))
    np.testing.assert_allclose(found.values, model.predict(data[0].astype(np.float64)), rtol=1e-9)


def test_numbered_classes_mean_the_schemas_labels_in_order(data, tmp_path):
    three = np.digitize(data[1], [-0.5, 0.5])
    skops.io.dump(GaussianNB().fit(data[0], three), tmp_path / "m")
    found = load(tmp_path / "m", "scikit-learn", THREE).predict(data[0])
    assert set(found.labels.tolist()) <= {0, 1, 2}
    with pytest.raises(Invalid, match="its schema lists") as caught:
        load(tmp_path / "m", "scikit-learn", NUMBERS)
    assert caught.value.code == "schema_mismatch"


@pytest.mark.parametrize("dump", [joblib.dump, lambda model, path: path.write_bytes(pickle.dumps(model))])
def test_a_pickle_is_loaded_only_where_the_operator_allows_it(dump, fitted, tmp_path):
    matrix, models = fitted
    path = tmp_path / "model.skops"  # the name does not help it
    dump(models["pipeline"], path)
    with pytest.raises(Invalid, match="executes code as it loads") as caught:
        load(path, "scikit-learn", NUMBERS)
    assert caught.value.code == "pickle_not_allowed"
    found = load(path, "scikit-learn", NUMBERS, allow_pickle=True).predict(matrix)
    np.testing.assert_allclose(found.scores, models["pipeline"].predict_proba(matrix)[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (SVC(probability=False), "SVC"),
        (HistGradientBoostingClassifier(max_iter=2), "HistGradientBoosting"),
        (make_pipeline(FunctionTransformer(np.abs), LogisticRegression()), "FunctionTransformer"),
    ],
)
def test_a_type_that_is_not_on_the_list_is_refused_by_name(model, named, data, tmp_path):
    skops.io.dump(model.fit(data[0], data[1] > 0), tmp_path / "m")
    with pytest.raises(Invalid, match=named) as caught:
        load(tmp_path / "m", "scikit-learn", NUMBERS)
    assert caught.value.code == "unsupported_model"


def rewritten(path, change):
    """The skops file with change(schema document, {name: bytes}) applied."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(parts["schema.json"])
    change(document, parts)
    parts["schema.json"] = json.dumps(document).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_a_file_that_names_a_function_of_the_system_is_refused(fitted, tmp_path):
    skops.io.dump(fitted[1]["bayes"], tmp_path / "m")

    def change(document, parts):
        document["content"]["content"]["priors"] = {
            "__class__": "system", "__module__": "posix", "__loader__": "FunctionNode",
            "content": {"module_path": "posix", "function": "system"}, "__id__": 1,
        }  # fmt: skip

    with pytest.raises(Invalid, match=r"holds posix\.system"):
        load(rewritten(tmp_path / "m", change), "scikit-learn", NUMBERS)


@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
@pytest.mark.parametrize("value", [10_000_000, 0])
@pytest.mark.parametrize("name", ["tree", "forest", "boosting"])
def test_a_tree_that_points_outside_itself_is_refused(name, value, field, fitted, tmp_path):
    import io

    skops.io.dump(fitted[1][name], tmp_path / "m")

    def change(document, parts):
        for part, content in parts.items():
            if part.endswith(".npy"):
                array = np.load(io.BytesIO(content), allow_pickle=False)
                if array.dtype.names and field in array.dtype.names:
                    array = array.copy()
                    array[field][0] = value
                    out = io.BytesIO()
                    np.save(out, array)
                    parts[part] = out.getvalue()
                    return
        raise AssertionError("the file holds no tree")

    path = rewritten(tmp_path / "m", change)
    if field == "feature" and value == 0:
        load(path, "scikit-learn", NUMBERS)  # another feature, but one that there is
        return
    with pytest.raises(Invalid) as caught:
        load(path, "scikit-learn", NUMBERS)
    assert caught.value.code == "corrupt_model"


def test_a_model_that_gives_no_probabilities_or_has_another_width_is_refused(fitted, data, tmp_path):
    skops.io.dump(LinearRegression().fit(*data), tmp_path / "linear")
    with pytest.raises(Invalid, match="no predict_proba"):
        load(tmp_path / "linear", "scikit-learn", NUMBERS)
    skops.io.dump(fitted[1]["bayes"], tmp_path / "bayes")
    with pytest.raises(Invalid, match="the schema says regression"):
        load(tmp_path / "bayes", "scikit-learn", VALUE)
    narrow = NUMBERS.model_copy(update={"features": NUMBERS.features[:4]})
    with pytest.raises(Invalid, match="takes 6 features, its schema lists 4"):
        load(tmp_path / "bayes", "scikit-learn", narrow)


def test_a_damaged_file_is_refused(fitted, tmp_path):
    skops.io.dump(fitted[1]["forest"], tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for place in range(100, len(whole), len(whole) // 25):
        (tmp_path / "m").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(
            Invalid
        ):  # any other error fails the test; damage that changes nothing loads
            load(tmp_path / "m", "scikit-learn", NUMBERS)
