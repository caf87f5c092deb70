"""Two BentoML services with the benchmark's model, in the form of BentoML's XGBoost example.

As there, the input is an array in JSON; `inplace_predict` instead of scikit-learn's interface saves it 0.1 ms a call.
"""

import os

import bentoml
import numpy as np
import xgboost


def booster():
    return xgboost.Booster({"nthread": 1}, model_file=os.environ["BENCH_MODEL"])


@bentoml.service(workers=1)
class Plain:
    def __init__(self):
        self.model = booster()

    @bentoml.api
    def predict(self, data: np.ndarray) -> np.ndarray:
        return self.model.inplace_predict(data)


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Batched:
    def __init__(self):
        self.model = booster()

    @bentoml.api(batchable=True, max_batch_size=1024, max_latency_ms=1000)
    def predict(self, data: np.ndarray) -> np.ndarray:
        return self.model.inplace_predict(data)
