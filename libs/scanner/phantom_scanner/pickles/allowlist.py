"""What a pickled model may name, exactly, and with which arguments it may be called.

A name that is not here fails the scan. Functions are here only where a pickle cannot do without them to rebuild a
value; none of them may be called with anything but plain values, so none calls what it is given. A name is added
here only after a look at what it does in its module when a pickle calls it, builds it or sets its state.
"""

from collections.abc import Mapping
from typing import Literal

from phantom_runtimes.sklearn_check import TYPES

Kind = Literal["class", "reconstructor"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BASE: dict[str, frozenset[str]] = {
    "builtins": _names(
        "object set frozenset bytearray bytes complex slice range list dict tuple str int float bool"
    ),
    "collections": _names("OrderedDict defaultdict"),
}
_NUMPY: dict[str, frozenset[str]] = {
    "numpy": _names(
        "ndarray dtype bool bool_ float16 float32 float64 int8 int16 int32 int64 uint8 uint16 "
        "uint32 uint64 str_ object_ datetime64 timedelta64"
    ),
    "numpy.random._mt19937": _names("MT19937"),
    "numpy.random._pcg64": _names("PCG64"),
    "numpy.random.bit_generator": _names("SeedSequence"),
    "numpy.random.mtrand": _names("RandomState"),
    "scipy.sparse._csr": _names("csr_matrix csr_array"),
    "joblib.numpy_pickle": _names("NumpyArrayWrapper"),
}
_SKLEARN_MORE: dict[str, frozenset[str]] = {
    "sklearn._loss._loss": _names(
        "CyHalfGammaLoss CyHalfPoissonLoss CyHalfTweedieLoss CyHalfTweedieLossIdentity CyPinballLoss"
    ),
    "sklearn._loss.loss": _names(
        "HalfGammaLoss HalfPoissonLoss HalfTweedieLoss HalfTweedieLossIdentity PinballLoss"
    ),
    "sklearn.calibration": _names("CalibratedClassifierCV _CalibratedClassifier _SigmoidCalibration"),
    "sklearn.cluster._kmeans": _names("KMeans MiniBatchKMeans"),
    "sklearn.compose._target": _names("TransformedTargetRegressor"),
    "sklearn.decomposition._pca": _names("PCA"),
    "sklearn.discriminant_analysis": _names("LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis"),
    "sklearn.ensemble._bagging": _names("BaggingClassifier BaggingRegressor"),
    "sklearn.ensemble._hist_gradient_boosting.binning": _names("_BinMapper"),
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting": _names(
        "HistGradientBoostingClassifier HistGradientBoostingRegressor"
    ),
    "sklearn.ensemble._hist_gradient_boosting.predictor": _names("TreePredictor"),
    "sklearn.ensemble._iforest": _names("IsolationForest"),
    "sklearn.ensemble._stacking": _names("StackingClassifier StackingRegressor"),
    "sklearn.ensemble._voting": _names("VotingClassifier VotingRegressor"),
    "sklearn.ensemble._weight_boosting": _names("AdaBoostClassifier AdaBoostRegressor"),
    "sklearn.feature_selection._variance_threshold": _names("VarianceThreshold"),
    "sklearn.isotonic": _names("IsotonicRegression"),
    "sklearn.linear_model._bayes": _names("BayesianRidge ARDRegression"),
    "sklearn.linear_model._coordinate_descent": _names("LassoCV ElasticNetCV"),
    "sklearn.linear_model._glm.glm": _names("GammaRegressor PoissonRegressor TweedieRegressor"),
    "sklearn.linear_model._huber": _names("HuberRegressor"),
    "sklearn.linear_model._passive_aggressive": _names(
        "PassiveAggressiveClassifier PassiveAggressiveRegressor"
    ),
    "sklearn.linear_model._perceptron": _names("Perceptron"),
    "sklearn.linear_model._ridge": _names("RidgeClassifier RidgeCV RidgeClassifierCV"),
    "sklearn.linear_model._sgd_fast": _names("Hinge SquaredHinge EpsilonInsensitive"),
    "sklearn.metrics._dist_metrics": _names(
        "EuclideanDistance64 ManhattanDistance64 MinkowskiDistance64 ChebyshevDistance64"
    ),
    "sklearn.neighbors._ball_tree": _names("BallTree BallTree64"),
    "sklearn.neighbors._classification": _names("KNeighborsClassifier"),
    "sklearn.neighbors._kd_tree": _names("KDTree KDTree64"),
    "sklearn.neighbors._regression": _names("KNeighborsRegressor"),
    "sklearn.preprocessing._function_transformer": frozenset(["FunctionTransformer"]),  # without functions
    "sklearn.preprocessing._polynomial": _names("PolynomialFeatures SplineTransformer"),
    "sklearn.svm._classes": _names("LinearSVC LinearSVR SVC SVR"),
    "sklearn.utils._bunch": _names("Bunch"),
}
_XGBOOST: dict[str, frozenset[str]] = {
    "xgboost.core": _names("Booster"),
    "xgboost.sklearn": _names("XGBClassifier XGBRegressor XGBRFClassifier XGBRFRegressor XGBRanker"),
}
# Functions. `pickles.calls` says what each may be given.
_RECONSTRUCTORS: dict[str, frozenset[str]] = {
    "copyreg": _names("_reconstructor"),
    "_codecs": _names("encode"),
    "numpy._core.multiarray": _names("_reconstruct scalar"),
    "numpy._core.numeric": _names("_frombuffer"),
    "numpy.core.multiarray": _names("_reconstruct scalar"),
    "numpy.core.numeric": _names("_frombuffer"),
    "numpy.random._pickle": _names("__bit_generator_ctor __generator_ctor __randomstate_ctor"),
    "numpy.random.bit_generator": _names("__pyx_unpickle_SeedSequence"),
    "sklearn.metrics._dist_metrics": _names("newObj"),
    "sklearn.neighbors._ball_tree": _names("newObj"),
    "sklearn.neighbors._kd_tree": _names("newObj"),
}


def _merged(*parts: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for part in parts:
        for module, names in part.items():
            found[module] = found.get(module, frozenset()) | names
    return found


_SKLEARN = _merged(
    {module: names for module, names in TYPES.items() if module.startswith("sklearn.")}, _SKLEARN_MORE
)
_CLASSES = {
    "scikit-learn": _merged(_BASE, _NUMPY, _SKLEARN, _XGBOOST),  # pipelines end in xgboost's estimators too
    "xgboost": _merged(_BASE, _NUMPY, _XGBOOST),
    "onnx": {},  # no pickle belongs to it
    "": _merged(_BASE, _NUMPY, _SKLEARN, _XGBOOST),
}


def kind_of(module: str, name: str, framework: str) -> Kind | None:
    """How a pickled model of this framework ("" for any) may use the name; None where it may not name it."""
    if "." in name or (name.startswith("__") and name.endswith("__")):
        return None
    classes = _CLASSES.get(framework, {})
    if name in classes.get(module, ()):
        return "class"
    if classes and name in _RECONSTRUCTORS.get(module, ()):
        return "reconstructor"
    return None


# Only for the words of a finding: what is not listed above fails whether it stands here or not.
_KNOWN_BAD = _names(
    "os posix nt subprocess builtins __builtin__ sys shutil socket runpy pip importlib "
    "ctypes code pty pdb timeit webbrowser operator functools pickle marshal types "
    "multiprocessing threading asyncio http urllib requests bdb cProfile profile trace"
)


def is_known_bad(module: str, name: str) -> bool:
    """Whether the name runs code or reaches out by itself, going by its top package."""
    return (
        module.split(".")[0] in _KNOWN_BAD
        or module.startswith(("numpy.f2py", "numpy.testing", "numpy.distutils"))
        or "__" in name
    )
