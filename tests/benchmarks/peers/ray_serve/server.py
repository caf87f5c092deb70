"""A Ray Serve application with the benchmark's model: `server.py PORT` as documented, `server.py PORT batched`."""

import os
import signal
import sys
import threading

import numpy as np
import ray
import xgboost
from ray import serve
from starlette.requests import Request


# With the default of 5 ongoing requests the proxy backs off from a full replica and answers 25 requests a second.
@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Plain:
    def __init__(self):
        self.model = xgboost.Booster({"nthread": 1}, model_file=os.environ["BENCH_MODEL"])

    async def __call__(self, request: Request):
        rows = np.asarray((await request.json())["rows"], np.float32)
        return self.model.inplace_predict(rows).tolist()


@serve.deployment(num_replicas=1, max_ongoing_requests=256, logging_config={"enable_access_log": False})
class Batched:
    def __init__(self):
        self.model = xgboost.Booster({"nthread": 1}, model_file=os.environ["BENCH_MODEL"])

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
    async def predict(self, arrays):
        ends = np.cumsum([len(rows) for rows in arrays])[:-1]
        return np.split(self.model.inplace_predict(np.concatenate(arrays)), ends)

    async def __call__(self, request: Request):
        rows = np.asarray((await request.json())["rows"], np.float32)
        return (await self.predict(rows)).tolist()


if __name__ == "__main__":
    port, is_batched = int(sys.argv[1]), sys.argv[2:] == ["batched"]
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    ray.init(
        _temp_dir=os.path.join(os.getcwd(), "ray"),
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run((Batched if is_batched else Plain).bind())
    end.wait()
    serve.shutdown()
    ray.shutdown()
