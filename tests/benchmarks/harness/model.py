"""The one model that every system serves: binary XGBoost, 45 float32 features, 200 trees of depth 6.

It is trained once on synthetic rows and kept in `.phantom/bench/` (not committed).
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .system import CannotMeasure

FEATURES, TREES, DEPTH = 45, 200, 6
TOLERANCE = 1e-4
FOLDER = Path(__file__).parents[3] / ".phantom" / "bench"

Rows = npt.NDArray[np.float32]


@cache
def data(features: int = FEATURES, count: int = 20_000) -> tuple[Rows, npt.NDArray[np.int64]]:
    """([count, features] rows, [count] labels), the same on every machine."""
    random = np.random.default_rng(45)
    rows = random.normal(size=(count, features)).astype(np.float32)
    weights = random.normal(size=features)
    noise = random.normal(size=count)
    score = rows @ weights + 2.0 * rows[:, 0] * rows[:, 1] + np.sin(3 * rows[:, 2]) + noise
    return rows, (score > 0).astype(np.int64)


def file(features: int = FEATURES, trees: int = TREES) -> Path:
    """The model as UBJ; trained on the first call."""
    path = FOLDER / f"xgboost-{features}x{trees}x{DEPTH}.ubj"
    if not path.exists():
        _train(path, features, trees)
    return path


def _train(path: Path, features: int, trees: int) -> None:
    import xgboost

    # Thousands of trees are wanted for their weight, not for what they know: fewer rows train sooner.
    rows, labels = data(features, 20_000 if trees <= TREES else 2_000)
    settings = {"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.05, "seed": 7}
    booster = xgboost.train(settings, xgboost.DMatrix(rows, label=labels), num_boost_round=trees)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    booster.save_model(part)
    part.replace(path)


def rows(count: int, features: int = FEATURES) -> Rows:
    """The first rows, [count, features] float32: what requests carry. They are the same for any `count` of `data`."""
    return data(features, 64)[0][:count]


def row(number: int = 0) -> Rows:
    """[1, 45] float32."""
    return rows(number + 1)[number:]


@cache
def probabilities(count: int = 1, features: int = FEATURES, trees: int = TREES) -> tuple[float, ...]:
    """The model's answers to `rows(count)`: the probability of class 1."""
    import xgboost

    booster = xgboost.Booster({"nthread": 1}, model_file=str(file(features, trees)))
    return tuple(float(each) for each in booster.inplace_predict(rows(count, features)))


def check(found: npt.ArrayLike, count: int = 1, features: int = FEATURES, trees: int = TREES) -> None:
    """Raise CannotMeasure unless `found` are the model's probabilities of `rows(count)`."""
    values = np.asarray(found, np.float64).reshape(-1)
    expected = np.asarray(probabilities(count, features, trees))
    if values.shape != expected.shape or not np.allclose(values, expected, rtol=0, atol=TOLERANCE):
        raise CannotMeasure(f"a wrong answer: {values[:4]} instead of {expected[:4]} ({count} rows)")


def oip_request(count: int = 1, *, model: str = "bench", unit: str = "", features: int = FEATURES) -> bytes:
    """A serialized ModelInferRequest of `rows(count)` as one raw FP32 tensor; `unit` as parameter `user_id`."""
    from inference import grpc_service_pb2 as oip

    request = oip.ModelInferRequest(model_name=model, id="request-1234567")
    if unit:
        request.parameters["user_id"].string_param = unit
    request.inputs.add(name="features", datatype="FP32", shape=[count, features])
    request.raw_input_contents.append(rows(count, features).tobytes())
    return bytes(request.SerializeToString())


def oip_probabilities(answer: bytes, output: str) -> list[float]:
    """The class 1 probabilities in a ModelInferResponse: FP32 or FP64, raw or typed, one or two columns."""
    from inference import grpc_service_pb2 as oip

    response = oip.ModelInferResponse.FromString(answer)
    names = [each.name for each in response.outputs]
    if output not in names:
        raise CannotMeasure(f"the answer has outputs {names}, and not {output!r}")
    place = names.index(output)
    tensor = response.outputs[place]
    code = {"FP32": "f", "FP64": "d"}[tensor.datatype]
    if response.raw_output_contents:
        raw = response.raw_output_contents[place]
        values = list(struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw))
    else:
        contents = tensor.contents
        values = list(contents.fp32_contents if code == "f" else contents.fp64_contents)
    columns = tensor.shape[1] if len(tensor.shape) > 1 else 1
    return values[columns - 1 :: columns]
