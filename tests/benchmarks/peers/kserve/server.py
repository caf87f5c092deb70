"""KServe's Python model server with the benchmark's model; its own flags (`--grpc_port`, …) configure it.

`predict` is what the predictor of KServe's XGBoost runtime does (that runtime is not on PyPI), but with
`inplace_predict`, the faster of XGBoost's two ways for a single row.
"""

import logging
import os

import kserve
import uvicorn
import xgboost
from grpc.aio._server import Server
from kserve.utils.utils import get_predict_input, get_predict_response


class Bench(kserve.Model):
    def load(self):
        self.booster = xgboost.Booster({"nthread": 1}, model_file=os.environ["BENCH_MODEL"])
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):
        rows = get_predict_input(payload)
        return get_predict_response(payload, self.booster.inplace_predict(rows), self.name)


def listen_on_loopback_only():
    """KServe listens on every interface and has no setting for it."""
    add_port, configure = Server.add_insecure_port, uvicorn.Config.__init__
    Server.add_insecure_port = lambda self, at: add_port(self, at.replace("[::]", "127.0.0.1"))
    uvicorn.Config.__init__ = lambda self, *args, **more: configure(
        self, *args, **more | {"host": "127.0.0.1"}
    )


if __name__ == "__main__":
    listen_on_loopback_only()
    model = Bench("bench")
    model.load()
    server = kserve.ModelServer()
    # It would write a line for each request.
    logging.getLogger("kserve").setLevel(logging.WARNING)
    server.start([model])
